"""The figures of a run as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from poison2poison.report.curves import CLEAN
from poison2poison.report.html import columns, percent
from poison2poison.report.run import Run, Section
from poison2poison.report.summary import COSTS, PLACE
from poison2poison.report.tables import FIGURES
from poison2poison.report.verdict import UTILITIES, sentence


def as_markdown(run: Run) -> str:
    """A table of all sections, where there are several; then one for each, and what its figures say."""
    parts = [f"# {_plain(run.title)}", f"`{_plain(run.command)}`" if run.command else ""]
    parts += [_overview(run.sections)] if len(run.sections) > 1 else []
    for section in run.sections:
        shown = columns(section)
        parts.append(f"## {_plain(section.title)}")
        lines = [["", *(FIGURES[name] for name in shown), "needs"]]
        for arm in section.arms:
            cells = (percent(arm["figures"].get(name)) for name in shown)
            lines.append([_plain(arm["arm"]), *cells, ", ".join(arm["needs"])])
        parts.append(_table(lines))
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


def _overview(sections: Sequence[Section]) -> str:
    """A row for each section and a column for each arm: CA (or what else answers are worth) / ASR, RA, alarms, in %."""
    names = dict.fromkeys(arm["arm"] for section in sections for arm in section.arms if arm["arm"] != CLEAN)
    lines = [["rows, attack", "suspect rows: precision / recall", "floor", *names]]
    for section in sections:
        figures = {arm["arm"]: arm["figures"] for arm in section.arms}
        floor = next((_percent(one, "asr") for name, one in figures.items() if name == CLEAN), "")
        unlearned = {arm["arm"] for arm in section.arms if arm.get("unlearned")}
        cells = [_glance(figures[name]) if name in figures else "" for name in names]
        cells = [f"{cell}, not learned" if name in unlearned else cell for cell, name in zip(cells, names, strict=True)]
        lines.append(
            [section.title + (" (not implanted)" if section.not_implanted else ""), _suspects(section), floor, *cells]
        )
    return _table([[_plain(cell) for cell in line] for line in lines])


def _table(lines: Sequence[Sequence[str]]) -> str:
    """A table whose first line is its head, and whose first column alone is text."""
    head, *rest = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---", *("---:" for _ in head[1:])], *rest))


def _glance(figures: Mapping[str, Any]) -> str:
    utility = next((name for name in UTILITIES if name in figures), "")
    told = " / ".join(filter(None, (_percent(figures, name) for name in (utility, "asr"))))
    told += f", RA {_percent(figures, 'ra')}" if "ra" in figures else ""
    alarms = [_percent(figures, name) for name in ("alarm_triggered", "alarm")]
    return told + (f", alarm {' / '.join(alarms)}" if all(alarms) else "")


def _percent(figures: Mapping[str, Any], name: str) -> str:
    return f"{100 * figures[name]['value']:.1f}" if name in figures else ""


def _suspects(section: Section) -> str:
    """Precision and recall of suspect rows: means over the audits that have them."""
    found = [cell["suspects"] for cell in section.cells if cell.get("suspects")]
    means = []
    for name in ("precision", "recall"):
        known = [one[name] for one in found if one[name] is not None]
        means.append(f"{fmean(known):.2f}" if known else "none")
    return " / ".join(means) if found else ""


def _lost(cells: list[Mapping[str, Any]]) -> list[tuple[str, str]]:
    return [pair for cell in cells for lost in (cell["failed"], cell["inapplicable"]) for pair in lost.items()]


def _plain(text: str) -> str:
    """A text that ends no cell and begins no tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
