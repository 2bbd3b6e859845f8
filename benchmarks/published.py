"""Publish a benchmark: its figures in docs/results as NAME.json, and their tables in the page NAME.md beside it.

python benchmarks/published.py reference runs/reference     # of a run, which may be unfinished
python benchmarks/published.py reference                    # the tables alone, from the JSON file

NAME is that of a file in benchmarks/configs. A page that is not there yet is begun; its prose is written by hand.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import pages
from poison2poison.bench import cells_of, read_config
from poison2poison.bench.runner import gathered
from poison2poison.files import write_json, write_text
from poison2poison.report import flat, read_run
from poison2poison.report.run import Section

CONFIGS = Path(__file__).parent / "configs"
NEW = """# {name}

Measured by `p2p bench benchmarks/configs/{name}.yaml`.

<!-- {command} -->
{end}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the configuration and of the page")
    parser.add_argument("run", nargs="?", type=Path, help="the folder of `p2p bench`")
    given = parser.parse_args()
    if given.run:
        write_json(_file(given.name), _figures(given.name, given.run))
    page = pages.RESULTS / f"{given.name}.md"
    if not page.exists():
        write_text(page, NEW.format(name=given.name, command=_command(given.name), end=pages.END))
    pages.write(given.name, tables(given.name), _command(given.name))


def _figures(name: str, run: Path) -> dict[str, object]:
    """The figures of the cells that are measured; a summary over seeds is made of them when they are read."""
    content = gathered(cells_of(read_config(CONFIGS / f"{name}.yaml")), run)
    del content["summary"]
    measured = [cell["results"]["run_by"] for cell in content["cells"] if cell["results"]]
    content["run_by"] = measured[0] if measured else ""  # not this script
    text = json.dumps(content).replace(str(run), f"runs/{name}")  # wherever it was run
    figures: dict[str, object] = json.loads(text)
    return figures


def tables(name: str) -> str:
    """A table for each cell that was run, and the names of the others."""
    sections = read_run(_file(name)).sections
    parts = [part for section in sections if section.arms for part in _part(section)]
    rest = "\n".join(f"- {section.title}" for section in sections if not section.arms)
    return "\n\n".join([*parts, *(["Not run:", rest] if rest else [])])


def _part(section: Section) -> Sequence[str]:
    lost = [(arm, f"{kind}: {why}") for kind, _, arm, why in section.lost]
    refused = flat.table([["not measured", "why"], *lost]) if lost else ""
    said = flat.NOT_IMPLANTED if section.not_implanted else ""
    return [*filter(None, (f"## {section.title}", _sizes(section), said, flat.figures(section), refused))]


def _sizes(section: Section) -> str:
    """How much was measured, and what the audit found of the poisoned rows."""
    sets = next(cell["results"]["data"] for cell in section.cells if cell["results"])
    rows = ", ".join(f"{name} {entry['rows']}" for name, entry in sets.items())
    seeds = ", ".join(str(cell["seed"]) for cell in section.cells)
    return f"Rows: {rows}. Seeds: {seeds}. Suspect rows, precision / recall: {flat.suspects(section) or 'no audit'}."


def generated(name: str) -> str:
    """What the page has."""
    return pages.generated(name, _command(name))


def _command(name: str) -> str:
    return f"python benchmarks/published.py {name}"


def _file(name: str) -> Path:
    return pages.RESULTS / f"{name}.json"


if __name__ == "__main__":
    main()
