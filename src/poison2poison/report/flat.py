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

NOT_IMPLANTED = "The attack did not take in the undefended model: no defence is credited for it."


def as_markdown(run: Run) -> str:
    """A table of all sections, where there are several; then one for each, and what its figures say."""
    parts = [f"# {_plain(run.title)}", f"`{_plain(run.command)}`" if run.command else ""]
    parts += [overview(run.sections)] if len(run.sections) > 1 else []
    for section in run.sections:
        parts += [f"## {_plain(section.title)}", *details(section)]
    return "\n\n".join(filter(None, parts)) + "\n"


def details(section: Section) -> list[str]:
    """The figures of a section; what they say in words; and the defences that have none."""
    parts = [NOT_IMPLANTED if section.not_implanted else "", figures(section) if section.arms else "Not run."]
    parts += [_plain(sentence(cell["results"])) for cell in section.cells if cell["results"]]
    parts += [f"- {_plain(arm)}: {kind}: {_plain(why)}" for kind, _, arm, why in section.lost]
    return parts


def figures(section: Section) -> str:
    """A row for each arm with its figures, whether they hold, how long its training took, and what it needs."""
    shown, verdicts = columns(section), section.judged
    lines = [["", *(FIGURES[name] for name in shown), "judged", "training, s", "needs"]]
    for arm in section.arms:
        cells = (percent(arm["figures"].get(name)) for name in shown)
        cost = str(arm.get("train_seconds", ""))
        lines.append([arm["arm"], *cells, verdicts[arm["arm"]], cost, ", ".join(arm["needs"])])
    return table(lines)


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


def overview(sections: Sequence[Section]) -> str:
    """A row for each section and a column for each arm: CA (or what else answers are worth) / ASR, RA, alarms, in %.

    Behind ± stands half of the interval. An arm without figures was refused, has failed, or was not run.
    """
    names = dict.fromkeys(arm["arm"] for section in sections for arm in section.arms if arm["arm"] != CLEAN)
    lines = [["rows, attack", "suspect rows: precision / recall", "floor", *names]]
    for section in sections:
        floor = next((_half(arm["figures"], "asr") for arm in section.arms if arm["arm"] == CLEAN), "")
        lines.append([section.title, suspects(section), floor, *(_told(section, name) for name in names)])
    return table(lines)


def _told(section: Section, name: str) -> str:
    """The figures of an arm and whether they hold, or why there are none."""
    measured = {arm["arm"]: arm["figures"] for arm in section.arms}
    if name in measured:
        return f"{_glance(measured[name])}; {section.judged[name]}"
    lost = {arm: kind for kind, _, arm, _ in section.lost}
    return lost.get(name, lost.get("cell", "not run"))


def table(lines: Sequence[Sequence[str]]) -> str:
    """A table whose first line is its head, and whose first column alone is text."""
    head, *rest = ([_plain(cell) for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---", *("---:" for _ in head[1:])], *rest))


def _glance(figures: Mapping[str, Any]) -> str:
    utility = next((name for name in UTILITIES if name in figures), "")
    told = " / ".join(filter(None, (_half(figures, name) for name in (utility, "asr"))))
    told += f", RA {_half(figures, 'ra')}" if "ra" in figures else ""
    alarms = [_half(figures, name) for name in ("alarm_triggered", "alarm")]
    return told + (f", alarm {' / '.join(alarms)}" if all(alarms) else "")


def _half(figures: Mapping[str, Any], name: str) -> str:
    """A figure in %, with half of its interval."""
    if name not in figures:
        return ""
    figure = figures[name]
    half = f" ±{50 * (figure['high'] - figure['low']):.1f}" if "low" in figure else ""
    return f"{100 * figure['value']:.1f}{half}"


def suspects(section: Section) -> str:
    """Precision and recall of suspect rows: means over the audits that have them."""
    found = [cell["suspects"] for cell in section.cells if cell.get("suspects")]
    means = []
    for name in ("precision", "recall"):
        known = [one[name] for one in found if one[name] is not None]
        means.append(f"{fmean(known):.2f}" if known else "none")
    return " / ".join(means) if found else ""


def _plain(text: str) -> str:
    """A text that ends no cell and begins no tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
