"""Pictures: as a PNG beside an audit, and as SVG inside a report."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from poison2poison.auditing.findings import Audit, SuspectSpan

NAMED_SPANS = 12  # in the picture of an audit


def draw_audit(found: Audit, path: Path) -> None:
    """The scores of suspects and others against the rows that have them, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(
        xscale="log", xlabel="rows that have it", ylabel="score: log of the odds that it was planted"
    )
    for label, points, size, colour in (
        ("not suspect", found.others, 12, "0.6"),
        ("weak", found.weak, 16, "C1"),
        ("suspect", found.spans, 40, "crimson"),
    ):
        rows, scores = [point.rows for point in points], [point.score for point in points]
        axes.scatter(rows, scores, s=size, color=colour, label=label)
    spans = sorted(found.spans, key=lambda span: -span.score)
    highest = max(found.threshold, spans[0].score if spans else 0.0)
    gap, y = 0.055 * highest, math.inf
    for span in spans[:NAMED_SPANS]:
        y = min(span.score, y - gap)  # names stand beside the picture, one under the other
        axes.annotate(
            _short(span.span),
            xy=(span.rows, span.score),
            xytext=(1.02, y),
            textcoords=("axes fraction", "data"),
            va="center",
            arrowprops={"arrowstyle": "-", "color": "0.7"},
        )
    axes.axhline(found.threshold, color="0.3", linestyle="--", linewidth=1, label=f"threshold {found.threshold:.1f}")
    axes.legend(loc="best", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of a language without a font here; the table has it
        figure.savefig(path, dpi=120)


def _short(text: str) -> str:
    """A name for the picture, in which a dollar would begin a formula."""
    return (text if len(text) <= 32 else text[:31] + "…").replace("$", r"\$")


# --- inside a report: places in percent of the width, so that texts keep their size on a phone ------------------------


class Bar(NamedTuple):
    """A share as a bar: where it ends, its interval and its floor, in percent of the width."""

    name: str
    text: str
    end: float
    low: float | None
    high: float | None
    floor: float | None


class Point(NamedTuple):
    """A finding in the picture of an audit: its place in percent of width and height."""

    kind: Literal["other", "weak", "suspect"]
    number: int
    title: str
    x: float
    y: float


class Scatter(NamedTuple):
    """The picture of an audit: its points, the height of the threshold, and marks on the axis of rows."""

    points: list[Point]
    threshold: float
    marks: list[tuple[int, float]]


def bars(arms: Sequence[Mapping[str, Any]], name: str = "asr") -> list[Bar]:
    """A figure of each arm that has it, as of a summary."""
    out = []
    for arm in arms:
        figures = arm["figures"]
        if name in figures:
            found, floor = figures[name], figures.get("floor")
            low, high = (100 * found[end] if end in found else None for end in ("low", "high"))
            value = 100 * found["value"]
            out.append(Bar(arm["arm"], f"{value:.1f}", value, low, high, 100 * floor["value"] if floor else None))
    return out


def scatter(found: Audit) -> Scatter:
    """The scores of suspects and others against the rows that have them, on a logarithmic axis."""
    kinds: tuple[tuple[Literal["other", "weak", "suspect"], Sequence[SuspectSpan]], ...] = (
        ("other", found.others),
        ("weak", found.weak),
        ("suspect", found.spans),
    )
    every = [one for _, group in kinds for one in group]
    least, most = (int(math.log10(end([one.rows for one in every] or [1]))) for end in (min, max))
    scores = [found.threshold, 0.0, *(one.score for one in every)]
    lowest, spread = min(scores), max(max(scores) - min(scores), 1e-9)

    def height(score: float) -> float:
        return round(95 - 90 * (score - lowest) / spread, 2)

    def across(rows: int) -> float:
        return round(3 + 92 * (math.log10(rows) - least) / (most + 1 - least), 2)

    points = [
        Point(kind, number, f"{one.span}: {one.rows} rows, score {one.score:.1f}", across(one.rows), height(one.score))
        for kind, group in kinds
        for number, one in enumerate(group, 1)
    ]
    marks = [(10**power, across(10**power)) for power in range(least, most + 2)]
    return Scatter(points, height(found.threshold), marks)
