"""The generated part of a page in docs/results: what stands between its two comments is a benchmark's.

A page has the name of its script. `tests/test_result_tables.py` holds the pages against the measurements.
"""

from __future__ import annotations

from pathlib import Path

RESULTS = Path(__file__).parents[1] / "docs" / "results"
END = "<!-- end of what is generated -->\n"


def generated(script: str) -> str:
    """What a script's page has between its comments."""
    return _parts(script)[1]


def write(script: str, text: str) -> None:
    """Put it there anew."""
    before, _, behind = _parts(script)
    _page(script).write_text(f"{before}\n{text}\n\n{behind}", encoding="utf-8")


def _page(script: str) -> Path:
    return RESULTS / f"{script}.md"


def _parts(script: str) -> tuple[str, str, str]:
    """The page up to its first comment, between the two, and from the second one on."""
    comment = f"<!-- python benchmarks/{script}.py --table -->\n"
    before, begin, rest = _page(script).read_text(encoding="utf-8").partition(comment)
    text, end, behind = rest.partition(END)
    if not end:
        raise ValueError(f"{_page(script)}: has not both comments around what {script}.py generates")
    return before + begin, text.strip("\n"), end + behind
