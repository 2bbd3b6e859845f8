"""The generated part of a page in docs/results: what stands between its two comments is a benchmark's.

A page has the name of its script, or names the command that writes it.
`tests/test_result_tables.py` holds the pages against the measurements.
"""

from __future__ import annotations

from pathlib import Path

RESULTS = Path(__file__).parents[1] / "docs" / "results"
END = "<!-- end of what is generated -->\n"


def generated(page: str, command: str = "") -> str:
    """What a page has between its comments, the first of which is the command: by default that of its script."""
    return _parts(page, command)[1]


def write(page: str, text: str, command: str = "") -> None:
    """Put it there anew."""
    before, _, behind = _parts(page, command)
    _page(page).write_text(f"{before}\n{text}\n\n{behind}", encoding="utf-8")


def _page(page: str) -> Path:
    return RESULTS / f"{page}.md"


def _parts(page: str, command: str) -> tuple[str, str, str]:
    """The page up to its first comment, between the two, and from the second one on."""
    comment = f"<!-- {command or f'python benchmarks/{page}.py --table'} -->\n"
    before, begin, rest = _page(page).read_text(encoding="utf-8").partition(comment)
    text, end, behind = rest.partition(END)
    if not end:
        raise ValueError(f"{_page(page)}: has not both comments around what is generated")
    return before + begin, text.strip("\n"), end + behind
