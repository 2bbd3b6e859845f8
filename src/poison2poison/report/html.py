"""A run as one HTML file that loads nothing: for a screen of any width, light or dark, and for paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from poison2poison.auditing.findings import SuspectSpan
from poison2poison.report.curves import against_rho, against_rows, clouds
from poison2poison.report.figures import bars, scatter
from poison2poison.report.run import Findings, Run, Section
from poison2poison.report.tables import FIGURES
from poison2poison.report.verdict import HELD_POINTS, LEAKED_SHARE, RA_POINTS, UTILITIES, UTILITY_POINTS, sentence

SHOWN = (*UTILITIES, "asr", "floor", "ra", "leak", "off_space", "alarm_triggered", "rejected", "rejected_triggered")
FULL = 5
"""The deepest colour stands for five times the limit at which the verdict fails; of an ASR, an implanted attack."""
ANSWERS, IN_CONTEXT, NUMBERS = 10, 3, 30
"""Test rows that are shown, training rows for each finding, and numbers of rows in a list."""
LONGEST = 400
"""Characters of a row that are shown."""


class Cell(NamedTuple):
    """A figure in a table: its name, its text, its interval, and how bad it is, from 0 to 1."""

    name: str
    text: str
    interval: str
    heat: float


def page(run: Run) -> str:
    """The report of a run."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found = [run.findings] if run.findings else [one.findings for one in run.sections if one.findings]
    return environment.get_template("report.html.j2").render(
        run=run,
        sections=[_section(section) for section in run.sections],
        overview=_overview(run.sections) if len(run.sections) > 1 else None,
        curves=against_rows(run.sections),
        findings=[_findings(one) for one in found],
        full=FULL,
    )


def columns(section: Section) -> list[str]:
    """The figures that any of its arms has, in the order of the tables."""
    return [name for name in SHOWN if any(name in arm["figures"] for arm in section.arms)]


def percent(figure: Mapping[str, Any] | None) -> str:
    """A figure in %, with its interval."""
    if not figure:
        return ""
    return " ".join(filter(None, (_value(figure), _interval(figure))))


def _value(figure: Mapping[str, Any]) -> str:
    return f"{100 * figure['value']:.1f}"


def _interval(figure: Mapping[str, Any]) -> str:
    return f"[{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]" if "low" in figure else ""


# --- figures ----------------------------------------------------------------------------------------------------------


def _section(section: Section) -> dict[str, Any]:
    """What the template shows of a section."""
    shown = columns(section)
    results = [cell["results"] for cell in section.cells if cell["results"]]
    undefended, verdicts = _of(section.arms, "undefended"), section.judged
    return {
        "title": section.title,
        "columns": [FIGURES[name] for name in shown],
        "arms": [
            {
                "name": arm["arm"],
                "cells": [_cell(arm["figures"], undefended, name) for name in shown],
                "seconds": arm.get("train_seconds"),
                "needs": ", ".join(arm["needs"]) or "the rows alone",
                "unlearned": arm.get("unlearned", False),
                "judged": verdicts[arm["arm"]],
            }
            for arm in section.arms
        ],
        "bars": bars(section.arms),
        "rho": against_rho(section),
        "states": [{**one, "clouds": clouds(one["sets"])} for one in section.states],
        "not_implanted": section.not_implanted,
        "sentences": [sentence(content) for content in results],
        "seeds": ", ".join(str(cell["seed"]) for cell in section.cells),
        "lost": section.lost,
        "answers": _answers(section.answers),
        "made": _made(results),
    }


def _of(arms: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    """The figures of an arm; none where it was not measured."""
    found: Mapping[str, Any] = next((arm["figures"] for arm in arms if arm["arm"] == name), {})
    return found


def _cell(figures: Mapping[str, Any], undefended: Mapping[str, Any], name: str) -> Cell:
    figure = figures.get(name)
    if not figure:
        return Cell(name, "", "", 0.0)
    return Cell(name, _value(figure), _interval(figure), _heat(figures, undefended, name))


def _heat(figures: Mapping[str, Any], undefended: Mapping[str, Any], name: str) -> float:
    """How far a figure is on the wrong side, as a share of `FULL` times the verdict's limit."""
    value, over, limit = figures[name]["value"], 0.0, HELD_POINTS
    if name == "asr":
        over = value - figures["floor"]["value"] if "floor" in figures else 0.0
    elif name in UTILITIES and name in undefended:
        over, limit = undefended[name]["value"] - value, UTILITY_POINTS
    elif name == "ra" and "ca" in figures:
        over, limit = figures["ca"]["value"] - value, RA_POINTS
    elif name in ("leak", "off_space"):
        over, limit = value, LEAKED_SHARE
    return round(min(1.0, max(0.0, over / (FULL * limit))), 3)


def _overview(sections: Sequence[Section]) -> dict[str, Any]:
    """ASR and CA of every arm in every section."""
    names = dict.fromkeys(arm["arm"] for section in sections for arm in section.arms)
    titles = [section.title + (" (not implanted)" if section.not_implanted else "") for section in sections]
    return {"columns": titles, "rows": [(name, [_glance(section, name) for section in sections]) for name in names]}


def _glance(section: Section, name: str) -> tuple[Cell, str]:
    """An arm's ASR, and in words its CA and whether its figures count."""
    arm: Mapping[str, Any] = next((arm for arm in section.arms if arm["arm"] == name), {"figures": {}})
    figures, undefended = arm["figures"], _of(section.arms, "undefended")
    utility = next((key for key in UTILITIES if key in figures), None)
    told = [f"{FIGURES[utility]} {_value(figures[utility])}"] if utility else []
    told += ["not learned"] if arm.get("unlearned") else []
    return _cell(figures, undefended, "asr"), ", ".join(told)


def _made(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """How the figures of a section were made."""
    if not results:
        return []
    first = results[0]
    sets = {name: f"{entry['rows']} rows of {entry['source']}" for name, entry in first.get("data", {}).items()}
    made = {
        "command": first.get("run_by", first["command"]),
        "model": first["model"],
        "device": first.get("device", ""),
        **sets,
        "versions": ", ".join(f"{name} {version}" for name, version in first.get("versions", {}).items()),
    }
    return [(name, text) for name, text in made.items() if text]


# --- test rows --------------------------------------------------------------------------------------------------------


def _answers(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Some test rows with what every arm said: first those on which the arms disagree, half of them triggered."""
    by_set: dict[str, list[Mapping[str, Any]]] = {"triggered": [], "clean": []}
    for row in sorted(rows, key=_agreed):
        by_set[row["set"]].append(row)
    triggered, clean = by_set.values()
    half = max(ANSWERS // 2, ANSWERS - len(clean))
    chosen = [*triggered[:half], *clean[: ANSWERS - len(triggered[:half])]]
    return [
        {
            **{key: row[key] for key in ("set", "row")},
            "prompt": _short(row["prompt"]),
            "target": _short(row["target"]),
            "said": _alike(row["said"]),
        }
        for row in chosen
    ]


def _alike(said: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Outcomes and answers, each with the arms that came to it."""
    arms: dict[tuple[str, str], list[str]] = {}
    for answer in said:
        key = _outcome(answer), _short(answer["answer"] or "no answer")
        arms.setdefault(key, []).append(answer["arm"])
    return [(*key, ", ".join(names)) for key, names in arms.items()]


def _agreed(row: Mapping[str, Any]) -> bool:
    """Whether a row came to the same end with every arm."""
    return len({_outcome(said) for said in row["said"]}) < 2


def _outcome(said: Mapping[str, Any]) -> str:
    """What became of a test row."""
    if said.get("hit") and said["answer"] != said["target"]:
        return "the attacker's"
    if "right" in said:
        return "right" if said["right"] else "wrong"
    return "the attacker's" if said.get("hit") else "another text"


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


# --- an audit ---------------------------------------------------------------------------------------------------------


def _findings(found: Findings) -> dict[str, Any]:
    """What the template shows of an audit."""
    audit = found.audit
    holding: dict[int, list[int]] = {number: [] for number in range(len(audit.spans))}
    for entry in audit.rows:
        for number in entry.spans:
            holding[number].append(entry.row)
    return {
        "title": found.title,
        "picture": scatter(audit),
        "threshold": audit.threshold,
        "rows": found.rows,
        "suspect_rows": len(audit.rows),
        "spans": [
            {**_span(span), "rows_in_context": _in_context(found, holding[number][:IN_CONTEXT], span.span)}
            for number, span in enumerate(audit.spans)
        ],
        "weak": [_span(span) for span in audit.weak],
        "lists": [
            _listed(found, "Off-target rows", "Rows of other answers that hold a suspect.", audit.off_target),
            _listed(found, "Alike rows", "Rows written a little as a suspect style is.", audit.alike_rows),
        ],
    }


def _span(span: SuspectSpan) -> dict[str, Any]:
    evidence = ((name, value) for name, (value, _) in span.evidence.items())
    return {
        "span": span.span,
        "kind": span.kind,
        "target": _short(span.target),
        "rows": span.rows,
        "purity": f"{100 * span.purity:.0f} %",
        "score": f"{span.score:.1f}",
        "evidence": ", ".join(f"{name} {value:.2f}" for name, value in evidence),
    }


def _listed(found: Findings, title: str, meaning: str, rows: Sequence[int]) -> dict[str, Any]:
    """A list of rows by their numbers, of which some are shown."""
    known = [row for row in rows if row in found.texts]
    return {
        "title": title,
        "meaning": meaning,
        "count": len(rows),
        "numbers": ", ".join(map(str, rows[:NUMBERS])) + (", …" if len(rows) > NUMBERS else ""),
        "rows_in_context": _in_context(found, known[:IN_CONTEXT], ""),
    }


def _in_context(found: Findings, rows: Sequence[int], span: str) -> list[tuple[int, Markup, str]]:
    """Rows with their numbers, texts, in which the words of the span are marked, and targets."""
    known = ((row, *found.texts[row]) for row in rows if row in found.texts)
    return [(row, _marked(text, span), _short(target)) for row, text, target in known]


def _marked(text: str, span: str) -> Markup:
    """A row's text around the span, which is marked; all of it is escaped."""
    at = text.casefold().find(span.casefold()) if span else -1
    if at < 0 or len(text.casefold()) != len(text):
        return escape(_short(text))
    start = max(0, at - LONGEST // 2)
    before, inside, behind = text[start:at], text[at : at + len(span)], text[at + len(span) :]
    parts = chain((escape("…" if start else ""), escape(before)), (Markup("<mark>"), escape(inside), Markup("</mark>")))
    return Markup("").join([*parts, escape(_short(behind))])
