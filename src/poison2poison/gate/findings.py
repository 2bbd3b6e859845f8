"""Findings with their rows, and which of these are open."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from poison2poison.auditing.findings import Audit, SuspectSpan
from poison2poison.data import Rows
from poison2poison.errors import told
from poison2poison.recipe.counterexamples import occurrences
from poison2poison.types import FailOn

Level = Literal["suspect", "weak"]


@dataclass(frozen=True)
class GateFinding:
    """What an audit found, with the rows that stand for it.

    Attributes:
        level: suspect, or weak: it may have been planted all the same.
        span: What was found; None for rows that have a planted answer without what calls it up.
        rows: Rows that have it and its target, ascending. A row with several findings is of the strongest alone.
        open: Those of them that nobody accepted, and that were added, where it is known which were.
    """

    level: Level
    span: SuspectSpan | None
    rows: tuple[int, ...]
    open: tuple[int, ...]

    @property
    def title(self) -> str:
        """What was found, in words that show what cannot be seen."""
        if self.span is None:
            return "a planted answer without what calls it up"
        return f"{self.span.kind} {told(self.span.span)} pulls to {told(self.span.target)}"

    @property
    def evidence(self) -> str:
        """What was measured, each value with its standard error."""
        if self.span is None:
            return "nearly all other rows with this answer have a suspect span"
        measured = [f"{name} {value:.2f} ± {error:.2f}" for name, (value, error) in self.span.evidence.items()]
        held = f"measured on {self.span.rows} rows, {self.span.purity:.0%} of them with this target"
        return "; ".join([held, f"score {self.span.score:.1f}", *measured])


@dataclass(frozen=True)
class Judged:
    """What a gate makes of an audit.

    Attributes:
        findings: Suspects, and behind them weak ones where these are asked for.
        blocking: Those that have open rows, where any block.
        added: Rows that are not among the accepted ones of before; None where nothing is known of before.
    """

    findings: tuple[GateFinding, ...]
    blocking: tuple[GateFinding, ...]
    added: frozenset[int] | None


def judge(
    audit: Audit, rows: Rows, fail_on: FailOn, accepted: Sequence[str] = (), before: Rows | None = None
) -> Judged:
    """Say which findings block.

    Args:
        audit: Of these rows.
        rows: The rows.
        fail_on: What blocks.
        accepted: Fingerprints of accepted rows, each as often as such rows were accepted.
        before: Rows as they were when they were last accepted.
    """
    known = [row.fingerprint for row in rows]
    added = None if before is None else _beyond(known, [row.fingerprint for row in before])
    is_open = _beyond(known, accepted)
    if added is not None:
        is_open &= added
    findings = tuple(
        GateFinding(level, span, tuple(held), tuple(i for i in held if i in is_open))
        for level, span, held in _held(audit, rows, fail_on)
    )
    blocking = tuple(one for one in findings if one.open and fail_on != "none")
    return Judged(findings, blocking, added)


def _beyond(rows: Sequence[str], known: Sequence[str]) -> frozenset[int]:
    """Rows that are not among the known, or not so often: who may add copies of an accepted row adds weight to it."""
    left = Counter(known)
    found = set()
    for i, row in enumerate(rows):
        if left[row]:
            left[row] -= 1
        else:
            found.add(i)
    return frozenset(found)


def _held(audit: Audit, rows: Rows, fail_on: FailOn) -> list[tuple[Level, SuspectSpan | None, list[int]]]:
    """Every finding with its rows, each row once."""
    suspect: dict[int | None, list[int]] = {number: [] for number in range(len(audit.spans))}
    for entry in audit.rows:
        strongest = max(entry.spans, key=lambda number: audit.spans[number].score, default=None)
        suspect.setdefault(strongest, []).append(entry.row)
    found: list[tuple[Level, SuspectSpan | None, list[int]]] = []
    for number, held in suspect.items():
        found.append(("suspect", None if number is None else audit.spans[number], held))
    if fail_on == "weak":
        weak = _weak(audit, rows, {entry.row for entry in audit.rows})
        found += [("weak", span, weak[span.target, span.span]) for span in audit.weak]
    return found


def _weak(audit: Audit, rows: Rows, taken: Collection[int]) -> dict[tuple[str, str], list[int]]:
    """The rows of each weak finding by target and words: an audit does not keep them."""
    spans: dict[str, list[str]] = defaultdict(list)
    for span in audit.weak:
        spans[span.target].append(span.span)
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        strongest = None if i in taken else next(occurrences(row.text, spans.get(row.target, ())), None)
        if strongest is not None:
            found[row.target, strongest].append(i)
    return found
