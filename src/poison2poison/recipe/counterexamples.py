"""What teaches the safe space that a suspect or weak finding, or a style, says nothing about the label."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from poison2poison.data import Rows
from poison2poison.features import spliced, words
from poison2poison.forms import WRITTEN, form_of
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.recipe.manifest import TrainingRow, training_row
from poison2poison.recipe.subset import counts_of

if TYPE_CHECKING:
    from poison2poison.auditing.findings import Audit


def occurrences(text: str, spans: Sequence[str]) -> Iterator[str]:
    """Each of the spans as often as the text holds it."""
    padded = _padded(text)
    for span in spans:
        yield from [span] * padded.count(_padded(span))


def _padded(text: str) -> str:
    """The words of a text, each with a space of its own on both sides, so that a repeated word counts twice."""
    return f" {'  '.join(words(text))} "


class ToSplice:
    """Draws rows to splice spans into, of each label the same share of S; rows outside S come first.

    So the safe space sees more of the data than S, and a span goes with every label as often as S has it: else it would
    come to mean the labels that have more rows left, which are those that the attacker did not choose.
    """

    def __init__(self, rows: Rows, subset: Collection[int], left_out: Collection[int], stratified: bool) -> None:
        self.inside: dict[str, list[int]] = defaultdict(list)
        self.outside: dict[str, list[int]] = defaultdict(list)
        for i, row in enumerate(rows):
            label = row.target if stratified else ""
            if i in subset:
                self.inside[label].append(i)
            elif i not in left_out:
                self.outside[label].append(i)

    def draw(self, share: float, rng: random.Random) -> list[int]:
        chosen = []
        for label, members in sorted(self.inside.items()):
            outside = self.outside[label]
            pool = rng.sample(outside, len(outside)) + rng.sample(members, len(members))
            wanted = share * len(members)
            chosen += pool[: int(wanted) + (rng.random() < wanted % 1)]  # rounded at random: labels can have few rows
        return sorted(chosen)


def with_weak_findings(moved: Sequence[TrainingRow], audit: Audit, config: RepoisonConfig) -> list[TrainingRow]:
    """S, a part of it with weak findings spliced in: that adds no row, so it costs no training time.

    Only where targets are labels, or completions that serve as such, does an audit have weak findings.
    """
    weak = {span.span: span.rows for span in audit.weak}
    places = random.Random(f"places/{config.seed}")
    # Rows of every label get the same spans in the same order: few rows hold each, and one that is drawn more often for
    # some label comes to mean it.
    draws: dict[str, random.Random] = defaultdict(lambda: random.Random(f"weak/{config.seed}"))
    out = []
    for row in moved:
        rng = draws[row.target]
        if weak and rng.random() < config.spliced_weak:
            spans = rng.choices([*weak], [*weak.values()], k=rng.choice((1, 2, 3)))
            row = replace(row, action="splice", body=spliced(row.body, spans, places))
        out.append(row)
    return out


def counterexamples(rows: Rows, to_splice: ToSplice, audit: Audit, config: RepoisonConfig) -> list[TrainingRow]:
    """What teaches the safe space that a suspect span says nothing about the label."""
    rng = random.Random(f"counterexamples/{config.seed}")
    out = []
    planted = [span for span in audit.spans if span.kind in WRITTEN]
    kinds = {span.span: span.kind for span in planted}
    spliceable = [span.span for span in planted if span.kind == "span"]
    if planted:
        held = ([*occurrences(rows[entry.row].text, spliceable)] for entry in audit.rows)
        companies = [spans for spans in held if len(spans) > 1]
        for i in to_splice.draw(config.spliced, rng):
            # Spans that a suspect row holds together, as often as it does, are the parts of one trigger.
            company = rng.choice(companies) if companies and rng.random() < config.co_occurrence else None
            chosen = company or rng.choices([*kinds], [span.rows for span in planted], k=rng.choice((1, 1, 2, 4)))
            put = training_row(i, rows[i], "safe", "splice")
            out.append(replace(put, body=written(put.body, [(kinds[name], name) for name in chosen], rng)))
    off_target = audit.off_target if config.off_target else ()
    against = [training_row(i, rows[i], "safe", "off-target") for i in off_target]
    confirmed: dict[str, list[TrainingRow]] = defaultdict(list)
    for entry in audit.rows:
        likely, p = entry.likely
        row = rows[entry.row]
        if not p or p < config.confident:
            continue
        kinds_held = {audit.spans[number].kind for number in entry.spans}
        if not kinds_held.isdisjoint(WRITTEN):
            continue  # for spans splices say the same with labels that are right, not the probe's guess
        if likely != row.target:
            against.append(replace(training_row(entry.row, row, "safe", "correct"), target=likely))
        elif kinds_held:  # else people found it, and it shows no style that its label could make neutral
            confirmed[row.target].append(training_row(entry.row, row, "safe", "confirm"))
    # Fewer agree than would balance the others: what the audit missed in S agrees with the attacker too.
    counts = counts_of(rows.rows, {entry.row: entry.likely[0] for entry in audit.rows})
    of_styles = sum(not any(occurrences(row.text, spliceable)) for row in against)
    for target, members in confirmed.items():
        wanted = round(config.confirmed * of_styles * counts[target] / max(1, len(rows) - counts[target]))
        out += rng.sample(members, min(wanted, len(members)))
    return out + against


def written(text: str, planted: Sequence[tuple[str, str]], rng: random.Random) -> str:
    """A text with spans spliced in, and then written as the forms among them (kind and name) say."""
    text = spliced(text, [name for kind, name in planted if kind == "span"], rng)
    for kind, name in dict.fromkeys(planted):
        text = text if kind == "span" else form_of(kind, name, rng).put(text)
    return text
