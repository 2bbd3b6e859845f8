"""The figures of a run as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from poison2poison.report.html import columns, percent
from poison2poison.report.run import Run
from poison2poison.report.summary import COSTS, PLACE
from poison2poison.report.tables import FIGURES
from poison2poison.report.verdict import sentence


def as_markdown(run: Run) -> str:
    """A table for each section, and what its figures say."""
    parts = [f"# {_plain(run.title)}", f"`{_plain(run.command)}`" if run.command else ""]
    for section in run.sections:
        shown = columns(section)
        parts.append(f"## {_plain(section.title)}")
        head = ["", *(FIGURES[name] for name in shown), "needs"]
        lines = [head, ["---", *("---:" for _ in shown), "---"]]
        for arm in section.arms:
            cells = (percent(arm["figures"].get(name)) for name in shown)
            lines.append([_plain(arm["arm"]), *cells, ", ".join(arm["needs"])])
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
        parts += [_plain(sentence(cell["results"])) for cell in section.cells if cell["results"]]
        parts += [f"- not measured: {_plain(name)}: {_plain(why)}" for name, why in _lost(section.cells)]
    return "\n\n".join(filter(None, parts)) + "\n"


def as_csv(run: Run) -> str:
    """A line for each figure: its place, arm and name, value, interval, rows and seeds."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*PLACE, "arm", "figure", "value", "low", "high", "n", "seeds"])
    for section in run.sections:
        place = [section.place[name] for name in PLACE]
        for arm in section.arms:
            for name, found in arm["figures"].items():
                numbers = [found.get(key, "") for key in ("value", "low", "high", "n", "seeds")]
                writer.writerow([*place, arm["arm"], name, *numbers])
            for name in COSTS:
                if name in arm:
                    writer.writerow([*place, arm["arm"], name, arm[name], "", "", "", ""])
    return out.getvalue()


def _lost(cells: list[Mapping[str, Any]]) -> list[tuple[str, str]]:
    return [pair for cell in cells for lost in (cell["failed"], cell["inapplicable"]) for pair in lost.items()]


def _plain(text: str) -> str:
    """A text that ends no cell and begins no tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
