"""Pictures over several cells or arms, as SVG inside a report: ASR as a curve, and states as clouds of points.

Places are in percent of width and height, so that texts keep their size on a phone.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from poison2poison.report.run import Section

FLOOR, CLEAN = "floor", "clean"
"""A line, and the arm that it is of, which is shown by nothing else."""
Points = dict[str, list[tuple[float, Mapping[str, Any], bool]]]
"""By the line: where along the axis, the figure there, and whether it counts."""


class Mark(NamedTuple):
    """A figure: its place, the ends of its interval, what it says, and whether it is hollow since it does not count."""

    x: float
    y: float
    low: float
    high: float
    title: str
    hollow: bool


class Line(NamedTuple):
    """One arm: its number, by which it has its colour, its marks, and the pieces between them (x, y, x, y)."""

    name: str
    number: int
    marks: list[Mark]
    pieces: list[tuple[float, float, float, float]]


class Curves(NamedTuple):
    """ASR against something: what it is called, its lines, and the ticks of both axes."""

    title: str
    axis: str
    lines: list[Line]
    ticks: list[tuple[str, float]]
    grid: list[tuple[int, float]]


class Cloud(NamedTuple):
    """The inputs of one set, as points (x, y); with the benign trigger they are hollow."""

    name: str
    number: int
    hollow: bool
    points: list[tuple[float, float]]


def height(share: float) -> float:
    """Where a share stands, of which 1 is at the top."""
    return round(4 + 82 * (1 - share), 2)


GRID = [(percent, height(percent / 100)) for percent in (0, 50, 100)]


def against_rows(sections: Sequence[Section]) -> list[Curves]:
    """ASR against the number of poisoned rows, of each attack that was measured at several rates."""
    attacks: dict[tuple[str, str, str], list[Section]] = defaultdict(list)
    for section in sections:
        task, model, attack = (str(section.place[name]) for name in ("task", "model", "attack"))
        if section.place["rate"] and section.rows:
            attacks[task, model, attack].append(section)
    out = []
    for names, found in attacks.items():
        points: Points = defaultdict(list)
        for section in found:
            at = round(section.place["rate"] * section.rows)
            for arm in section.arms:
                _enter(points, arm["arm"], at, arm)
        out.append(_curves(", ".join(names), "poisoned rows", points, math.log))
    return [curves for curves in out if len(curves.ticks) > 1]


def against_rho(section: Section) -> Curves | None:
    """ASR against the share of the rows that was re-poisoned; None where that is the same everywhere."""
    points: Points = defaultdict(list)
    for arm in section.arms:
        if "rho" in arm:
            _enter(points, arm["arm"].partition("@")[0], arm["rho"], arm)
    curves = _curves("", "rho, the share of the rows that was re-poisoned", points, float)
    return curves if len(curves.ticks) > 1 else None


def _enter(points: Points, name: str, at: float, arm: Mapping[str, Any]) -> None:
    """Enter an arm's ASR, and the floor once."""
    figures = arm["figures"]
    if "asr" in figures and name != CLEAN:
        points[name].append((at, figures["asr"], not arm.get("unlearned", False)))
    if FLOOR in figures and at not in [known for known, _, _ in points[FLOOR]]:
        points[FLOOR].append((at, figures[FLOOR], True))


def _curves(title: str, axis: str, points: Points, scale: Callable[[float], float]) -> Curves:
    places = sorted({at for line in points.values() for at, _, _ in line})
    ends = [scale(places[0]), scale(places[-1])] if places else [0.0, 0.0]

    def across(at: float) -> float:
        return round(8 + 86 * (scale(at) - ends[0]) / max(ends[1] - ends[0], 1e-9), 2)

    lines = []
    for number, (name, found) in enumerate(sorted(points.items(), key=lambda pair: pair[0] == FLOOR)):
        in_order = sorted(found, key=lambda point: point[0])
        marks = [_mark(name, at, across(at), figure, counts=counts) for at, figure, counts in in_order]
        pieces = [(one.x, one.y, other.x, other.y) for one, other in pairwise(marks)]
        lines.append(Line(name, number, marks, pieces))
    return Curves(title, axis, lines, [(f"{at:g}", across(at)) for at in places], GRID)


def _mark(name: str, at: float, x: float, figure: Mapping[str, Any], *, counts: bool) -> Mark:
    value = figure["value"]
    low, high = (height(figure.get(end, value)) for end in ("low", "high"))
    told = f"{name}, {at:g}: {100 * value:.1f}" + ("" if counts else ", safe space not learned")
    return Mark(x, height(value), low, high, told, not counts)


def clouds(sets: Mapping[str, Sequence[Sequence[float]]]) -> list[Cloud]:
    """The points of each set in the same frame, whose axes have one scale."""
    every = [point for points in sets.values() for point in points]
    if not every:
        return []
    middle = [(min(point[axis] for point in every) + max(point[axis] for point in every)) / 2 for axis in (0, 1)]
    widest = max((abs(point[axis] - middle[axis]) for point in every for axis in (0, 1)), default=0.0) or 1.0

    def place(point: Sequence[float]) -> tuple[float, float]:
        x, y = ((point[axis] - middle[axis]) / widest for axis in (0, 1))
        return round(50 + 46 * x, 2), round(50 - 46 * y, 2)

    # The sets come in pairs: clean and triggered rows, first without the benign trigger.
    return [Cloud(name, i % 2, i > 1, [*map(place, points)]) for i, (name, points) in enumerate(sets.items())]
