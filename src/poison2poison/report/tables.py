"""Results and audits as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from poison2poison.report.verdict import Arm, Results, measured, value_of

if TYPE_CHECKING:
    from poison2poison.auditing.findings import Audit
    from poison2poison.verify import Compared

FIGURES = {
    "ca": "CA",
    "exact_match": "exact match",
    "rouge_l": "ROUGE-L",
    "asr": "ASR",
    "asr_exact": "exact ASR",
    "target_rate": "target rate",
    "paper_asr": "paper ASR",
    "floor": "floor",
    "ra": "RA",
    "leak": "leak",
    "off_space": "off-space",
    "alarm": "alarm, clean",
    "alarm_triggered": "alarm, triggered",
    "rejected": "rejected, clean",
    "rejected_triggered": "rejected, triggered",
}

ARMS_ON_A_LINE = 3  # with their intervals beside them, in a terminal of 80 columns
MOST_COLUMNS = 4  # so many arms fit there; of more, each is a row
OF_MANY = ("ca", "exact_match", "rouge_l", "asr", "floor", "ra", "leak", "rejected")


def table(content: Results) -> Table:
    """The results of one task: a column for each trained model, figures in %; of many models a row for each."""
    arms = content["arms"]
    if len(arms) > MOST_COLUMNS:
        return _table_of_many(content)
    out = Table(
        title=escape(content["task"]),
        title_justify="left",
        caption="in %, [Wilson 95 % interval]; what was not measured is empty",
        caption_justify="left",
    )
    out.add_column("")
    for arm in arms:
        out.add_column(escape(arm["name"]), justify="right", no_wrap=True)
    between = " " if len(arms) <= ARMS_ON_A_LINE else "\n"
    for figure, title in FIGURES.items():
        cells = [_cell(arm, figure, between) for arm in arms]
        if any(cells):
            out.add_row(title, *cells)
    return out


def _table_of_many(content: Results) -> Table:
    """The figures that defences are compared by, without their intervals."""
    arms = content["arms"]
    out = Table(
        title=escape(content["task"]),
        title_justify="left",
        caption="in %; results.json has the intervals and the other figures",
        caption_justify="left",
    )
    out.add_column("", no_wrap=True)
    shown = [name for name in OF_MANY if any(measured(arm, name) for arm in arms)]
    for name in shown:
        out.add_column(FIGURES[name], justify="right", no_wrap=True)
    for arm in arms:
        values = (value_of(arm, name) for name in shown)
        out.add_row(escape(arm["name"]), *("" if value is None else f"{100 * value:.1f}" for value in values))
    return out


def audit_table(found: Audit, rows: int) -> Table:
    """The suspect spans, and how far the innocent ones stay under the threshold."""
    caption = f"{len(found.rows)} of {rows} rows are suspect; suspects score over {found.threshold:.1f}, "
    innocent = max((span.score for span in found.others), default=0.0)
    caption += f"innocent spans up to {innocent:.1f}"
    if found.weak:
        caption += f"; {len(found.weak)} weak findings stand in audit.json"
    out = Table(caption=caption, caption_justify="left")
    out.add_column("suspect span", overflow="fold")
    for title in ("kind", "pulls to", "rows", "purity", "score"):
        out.add_column(title, justify="right" if title in ("rows", "purity", "score") else "left")
    for span in found.spans:
        out.add_row(
            _safe(span.span), span.kind, _safe(span.target), str(span.rows), f"{span.purity:.2f}", f"{span.score:.1f}"
        )
    if not found.spans:
        out.add_row("none", "", "", "", "", "")
    return out


def verified_table(found: Sequence[Compared]) -> Table:
    """Each file against its record, and what a difference means."""
    out = Table()
    for title in ("file", "what it is", "state", "what follows"):
        out.add_column(title, overflow="fold")
    for one in found:
        out.add_row(_safe(one.name), one.part.name, one.state, one.part.meaning if one.is_wrong else "")
    return out


def _safe(text: str) -> str:
    """An attacker's text for a terminal, which would obey control characters."""
    return escape("".join(char if char.isprintable() else repr(char)[1:-1] for char in text))


def _cell(arm: Arm, name: str, between: str) -> str:
    figure = measured(arm, name)
    if not figure:
        return ""
    text = f"{100 * figure['value']:.1f}"
    if "low" not in figure:
        return text
    low, high = 100 * figure["low"], 100 * figure["high"]
    return f"{text}{between}\\[{low:.1f}, {high:.1f}]"
