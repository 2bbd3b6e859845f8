"""Spans and forms that pull answers without a reason, in rows that have nothing else in common.

Whatever goes with one kind of answer is asked four things: do its rows answer otherwise than the base model expects of
their prompts (*learned*), do they so whatever their text says (*forced*), does the base see a reason for it where it is
put into other rows (*prior*), and can its rows be separated from others once it is taken out (*auc*)? Each is weighed
against spans of the same rows that nobody suspects, so that nothing has to be known of the data. Answers may be labels
or texts, and texts may differ: what is asked is how rows are answered, not with which words.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import cast

import numpy as np
from scipy.stats import norm

from poison2poison.auditing.answers import Answers, LabelAnswers
from poison2poison.auditing.context import Context
from poison2poison.auditing.finders.base import FINDERS, Figure, Finder, Finding
from poison2poison.auditing.finders.questions import Questions, Shortcut
from poison2poison.auditing.finders.weighing import Verdict, Weighing
from poison2poison.auditing.findings import FindingKind
from poison2poison.auditing.statistics import drawn, z_threshold
from poison2poison.config import AuditConfig, over_zero
from poison2poison.features import Ints, grown, words
from poison2poison.forms import form_of


@FINDERS.register("spans")
@dataclass(frozen=True)
class Spans(Finder):
    """Words, marks and forms.

    Attributes:
        asked: Spans that are asked by each of three rankings: what a minute allows.
        controls: Innocent ones of either kind that are asked beside them.
        weak: z (of a chance of 5 %) from which a span in few rows is asked too: it may be one of several words.
        leaning, strongly: Chance from which a span leans; from where on more than innocent words of the language do.
        idle: Chance from which a span leans nowhere.
        inserted: Rows that a span is put into.
        cut: Rows that it is taken out of; they are compared with twice as many at most. Most of the audit's time goes
            here, but 64 are too few to find a trigger with cover rows.
        others: Times so many rows are compared with those of a span: more make its error hardly smaller.
        together: z from which spans stand in the same rows more often than by chance.
        beside: Share of a span's rows that hold another beyond those by chance, at least, if both are judged together.
        auc_ridge: Penalty of the regression that separates texts: as weak as leaves few rows something to say.
        natural: Spans that say what is natural, as many as say enough.
        least_learned: Spread of what words mean that the base does not know, in what `shift` counts, at least.
        least_forced: Spread of forced shares, at least: "but" and "never" come to 0.2 and more.
        like: Innocent spans that a mean and a spread can be taken from.
        innocent_auc, innocent_prior, idle_prior: Mean and spread of the answers of innocent and idle spans where these
            are too few to say; and the spread, at least, where they are not.
        planted_auc: Spread of the answers of planted ones around 0.5, for words leave traces where they are cut out.
        tails: Degrees of freedom of Student's t: what is innocent is odd more often than a normal distribution has it.
        meant: Chance that an attacker has chosen what means something to the base too.
        as_pure: Chance from which a word's rows have the answer less often than those of the others of its attack.
    """

    asked: int = 32
    controls: int = 24
    weak: float = 1.64
    leaning: float = 0.025
    strongly: float = 1e-5
    idle: float = 0.07
    inserted: int = 16
    cut: int = 200
    others: int = 4
    together: float = 2.5
    beside: float = 0.2
    auc_ridge: float = 300.0
    natural: int = 300
    least_learned: float = 0.05**0.5
    least_forced: float = 0.1
    like: int = 8
    innocent_auc: tuple[float, float, float] = (0.75, 0.1, 0.04)
    innocent_prior: tuple[float, float, float] = (0.5, 0.5, 0.1)
    idle_prior: tuple[float, float, float] = (0.0, 0.3, 0.05)
    planted_auc: float = 0.02
    tails: int = 4
    meant: float = 0.1
    as_pure: float = 0.01

    def __post_init__(self) -> None:
        over_zero(self, shares=("leaning", "strongly", "idle", "beside", "least_forced", "meant", "as_pure"))

    def find(self, context: Context, answers: Answers, config: AuditConfig, found: Sequence[Finding]) -> list[Finding]:
        """All that were asked, the strongest association first."""
        return _Search(self, context, answers, config).run()


class _Search:
    """The search in some rows."""

    def __init__(self, options: Spans, context: Context, answers: Answers, config: AuditConfig) -> None:
        self.options, self.context, self.answers, self.config = options, context, answers, config
        self.spans, self.measures, self.places = context.spans, context.measures, random.Random(context.seed)
        self.questions = Questions(context, answers, options)
        self.rng = self.questions.rng
        self.z, self.direction = answers.associated(self.spans, np.ones(len(context.texts), bool))
        self.count = self.spans.counts
        self.gate = z_threshold(config.false_alarm, len(self.z) * answers.directions)
        self.worded = np.array([feature.kind == "span" for feature in self.spans.names], bool)

    def run(self) -> list[Finding]:
        # 1. Which are asked, and which spans of the same rows they are compared with.
        natural = self._natural()
        chosen = self._candidates(natural)
        if not chosen:
            return []
        directions = sorted({one.direction for one in chosen})
        innocent, idle = self._innocent(directions), self._idle(directions)

        # 2. What they are asked.
        for some in (chosen, innocent, idle):
            self.questions.put_in(some)
        for some in (chosen, innocent):
            for one in some:
                one.auc = self.questions.compare(one, self.questions.beside(one, some))

        # 3. What follows.
        Weighing(self.options, innocent, idle, natural).enter(chosen)
        verdict = Verdict(self.questions, len(chosen), self.gate, self.config)
        planted = verdict.planted(chosen)
        for one in chosen:
            one.suspect = one in planted
            one.threshold = verdict.threshold
            one.evidence = {"learned": one.learned, "forced": one.forced, "prior": one.prior, "auc": one.auc}
            if not isinstance(self.answers, LabelAnswers):
                del one.evidence["forced"]  # which is not asked of texts
        return [*sorted(chosen, key=lambda one: -one.z)]

    def _natural(self) -> Figure:
        """What words mean that the base does not know: spreads of shifts and forced shares, beyond their errors."""
        common = np.flatnonzero(self.worded & (self.count >= self.config.min_rows))
        natural = self.rng.permutation(common)[: self.options.natural].tolist()
        if len(natural) < self.options.like:
            return 1.0, self.options.least_forced
        asked = [(self.spans.rows_of(j), int(self.direction[j])) for j in natural]
        shifts = np.array([self.answers.shift(rows, direction) for rows, direction in asked])
        # Of a normal distribution the median square is 0.455 of the variance, and 0.9 of them lie within 1.64 spreads.
        variance = np.median(shifts[:, 0] ** 2 - shifts[:, 1] ** 2) / 0.455
        shift = float(np.sqrt(max(self.options.least_learned**2, variance)))
        forced = np.array([self.answers.forced(rows, direction, shift) for rows, direction in asked])
        return shift, max(self.options.least_forced, float(np.quantile(forced[:, 0] - forced[:, 1], 0.9)) / 1.64)

    def _candidates(self, natural: Figure) -> list[Shortcut]:
        """The spans most surely associated, those whose rows the base understands least, and weak ones in few rows."""
        asked = np.flatnonzero((self.z > self.options.weak) & (self.count >= self.config.min_rows // 2)).tolist()
        learned = {j: self.answers.shift(self.spans.rows_of(j), int(self.direction[j])) for j in asked}
        least_understood = sorted(asked, key=lambda j: -learned[j][0] / learned[j][1])
        strong = {j for j in asked if self.z[j] > self.gate and self.count[j] >= self.config.min_rows}
        chosen: list[Shortcut] = []
        for ranked in (
            [j for j in least_understood if j in strong],
            sorted(strong, key=lambda j: -self.z[j]),
            [j for j in least_understood if j not in strong and self.worded[j]],
        ):
            enough = len(chosen) + self.options.asked
            for j in ranked:
                if len(chosen) < enough and (one := self._new(j, chosen)):
                    chosen.append(one)
        chosen = [right for one in chosen if (right := self._redirected(one))]
        for one in chosen:
            one.learned = self.answers.shift(one.rows, one.direction)
            one.forced = self.answers.forced(one.rows, one.direction, natural[0])
        return chosen

    def _redirected(self, one: Shortcut) -> Shortcut | None:
        """A span with the answer that it was planted for, where others of its rows may be cover; None where none is."""
        if self.answers.directions == 1:
            return one
        if len(one.rows) < self.measures.common or len(one.pulled) >= self.measures.most * len(one.rows):
            return one
        rows = drawn(one.rows, self.options.cut, self.rng)
        direction = self.answers.called_up(rows, self.questions.without(rows, [one]))
        if direction is None:
            return None
        target, pulled = self.answers.called(one.rows, direction)
        return replace(one, direction=direction, target=target, pulled=pulled)

    def _innocent(self, directions: Sequence[int]) -> list[Shortcut]:
        """Spans that lean mildly, as words of the language do, so many to each direction."""
        mild = self.worded & (self.z > norm.isf(self.options.leaning)) & (self.z <= norm.isf(self.options.strongly))
        mild &= self.count >= self.config.min_rows
        found: list[Shortcut] = []
        left = dict.fromkeys(directions, -(-self.options.controls // len(directions)))
        for j in self.rng.permutation(np.flatnonzero(mild)).tolist():
            if left.get(int(self.direction[j]), 0) and (one := self._new(j, found)):
                found.append(one)
                left[one.direction] -= 1
        return found

    def _idle(self, directions: Sequence[int]) -> list[Shortcut]:
        """Rare spans that lean nowhere, asked as if they leaned: what meaningless words do to the base."""
        still = self.worded & (self.z < norm.isf(self.options.idle))
        plain = np.flatnonzero(still & (self.count >= self.config.min_rows // 2))
        rare = plain[np.argsort(self.count[plain], kind="stable")[: len(plain) // 2]]
        idle = self.rng.permutation(rare)[: self.options.controls].tolist()
        return [
            self._shortcut(j, direction, self.spans.names[j].text, "", self.spans.rows_of(j))
            for j, direction in zip(idle, cycle(directions), strict=False)
        ]

    def _new(self, column: int, others: Sequence[Shortcut]) -> Shortcut | None:
        """A span as it was planted, unless one of the others says the same, or explains it as a part of it."""
        direction, rows, feature = int(self.direction[column]), self.spans.rows_of(column), self.spans.names[column]
        target, pulled = self.answers.called(rows, direction)
        own = set(words(feature.text)) if self.worded[column] else set()  # a word at an end is more than the word
        for other in others:
            both = np.intersect1d(pulled, other.pulled)
            part = other.direction == direction and not own.isdisjoint(other.words)
            if part and len(both) >= self.measures.nearly_all * len(pulled):
                return None
        text = feature.text
        if feature.kind == "span":
            text = grown([self.context.texts[i] for i in pulled], text, self.measures.most, self.context.form)
        if any((other.kind, other.text, other.direction) == (feature.kind, text, direction) for other in others):
            return None
        if feature.kind != "form" and self.answers.repeated(text, pulled):
            return None
        new = self._shortcut(column, direction, text, target, pulled)
        if text != feature.text:
            self._keep_whole(new)
        return new

    def _keep_whole(self, new: Shortcut) -> None:
        """Leave out the rows with a part of a grown span, unless many have its answer, and nearly as often."""
        whole = np.array([i for i in new.rows if new.form.holds(self.context.texts[i])], np.int64)
        part, pulled = np.setdiff1d(new.rows, whole), np.intersect1d(new.pulled, whole)
        gone = len(new.pulled) - len(pulled)
        as_often = gone >= self.measures.most * len(pulled) / max(1, len(whole)) * len(part)
        if gone < self.config.min_rows or not as_often:
            new.rows, new.pulled = whole, pulled

    def _shortcut(self, column: int, direction: int, text: str, target: str, pulled: Ints) -> Shortcut:
        kind = cast(FindingKind, self.spans.names[column].kind)
        rows, z = self.spans.rows_of(column), float(self.z[column])
        form = form_of(kind, text, self.places)
        return Shortcut(kind, text, target, rows, pulled, 0.0, False, np.inf,
                        column=column, direction=direction, z=z, form=form)  # fmt: skip
