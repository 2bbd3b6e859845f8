"""What follows from the answers of spans: scores by Bayes factors, and which were planted, alone or together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import comb
from scipy.stats import binom, norm
from scipy.stats import t as student

from poison2poison.auditing.finders.base import Figure
from poison2poison.auditing.finders.questions import Questions, Shortcut
from poison2poison.auditing.statistics import z_threshold
from poison2poison.config import AuditConfig
from poison2poison.features import by_rows

if TYPE_CHECKING:
    from poison2poison.auditing.finders.spans import Spans


@dataclass(frozen=True)
class Weighing:
    """The log of the Bayes factor of planted against innocent, question by question.

    Attributes:
        options: Of the finder.
        innocent: Spans that lean to answers as words of the language do.
        idle: Spans that lean nowhere.
        natural: Spreads of shifts and of forced shares of words that mean something.
    """

    options: Spans
    innocent: Sequence[Shortcut]
    idle: Sequence[Shortcut]
    natural: Figure

    def enter(self, chosen: Sequence[Shortcut]) -> None:
        """Enter the scores of the spans to judge."""
        for one in chosen:
            like = self._same_direction(one, self.innocent)
            still = self._same_direction(one, self.idle)
            one.of_auc = self._of_auc(one, like)
            one.score = self._of_learned(one) + self._of_prior(one, like, still) + one.of_auc

    def _of_learned(self, one: Shortcut) -> float:
        """The stronger of two: its rows are answered otherwise than expected, or so whatever they say."""
        factors = []
        for (value, error), spread in zip((one.learned, one.forced), self.natural, strict=True):
            spreads = max(0.0, value) / np.hypot(spread, error)
            factors.append(student.logpdf(0, self.options.tails) - student.logpdf(spreads, self.options.tails))
        return float(max(factors))

    def _of_prior(self, one: Shortcut, like: Sequence[Shortcut], still: Sequence[Shortcut]) -> float:
        """What was planted moves the base no more than idle spans do, unless the attacker chose it for its meaning."""
        meant, meant_spread = self._moments([other.prior for other in like], self.options.innocent_prior)
        idly, idle_spread = self._moments([other.prior for other in still], self.options.idle_prior)
        value, error = one.prior
        meaningless = self._log_t(value, idly, np.hypot(idle_spread, error))
        least = max(meant, idly + 2 * idle_spread)
        meaning = self._log_t(value, least, np.hypot(max(meant_spread, idle_spread), error))
        chosen_so = self.options.meant
        return float(np.logaddexp(np.log(1 - chosen_so) + meaningless, np.log(chosen_so) + meaning) - meaning)

    def _of_auc(self, one: Shortcut, like: Sequence[Shortcut]) -> float:
        """Rows that a span was planted in have nothing else in common."""
        mean, spread = self._moments([other.auc for other in like], self.options.innocent_auc)
        value, error = one.auc
        # To be separated better than other innocent spans' rows speaks no less for an innocent one.
        innocent = self._log_t(min(value, mean), mean, np.hypot(spread, error))
        return self._log_t(value, 0.5, np.hypot(self.options.planted_auc, error)) - innocent

    def _same_direction(self, one: Shortcut, spans: Sequence[Shortcut]) -> Sequence[Shortcut]:
        """Those of its direction, or all where these are too few."""
        same = [other for other in spans if other.direction == one.direction]
        return same if len(same) >= self.options.like else spans

    def _moments(self, figures: Sequence[Figure], usual: tuple[float, float, float]) -> Figure:
        """Median and spread beyond their errors, robustly: some may be planted."""
        usual_middle, usual_spread, least = usual
        if len(figures) < self.options.like:
            return usual_middle, usual_spread
        values, errors = np.array(figures).T
        middle = float(np.median(values))
        # Of a normal distribution the median deviation is 1 / 1.48 of the spread.
        variance = (1.48 * np.median(np.abs(values - middle))) ** 2 - np.median(errors) ** 2
        return middle, float(np.sqrt(max(least**2, variance)))

    def _log_t(self, value: float, mean: float, scale: float) -> float:
        return float(student.logpdf((value - mean) / scale, self.options.tails) - np.log(scale))


class Verdict:
    """Which of the spans that were asked were planted.

    Attributes:
        threshold: The score that is enough, of so many.
    """

    def __init__(self, questions: Questions, asked: int, gate: float, config: AuditConfig) -> None:
        """Of `asked` spans, one of which at least is associated by a z of `gate`, in rows enough."""
        self.questions, self.options, self.answers = questions, questions.options, questions.answers
        self.spans, self.measures = questions.context.spans, questions.context.measures
        self.asked, self.gate, self.least, self.false_alarm = asked, gate, config.min_rows, config.false_alarm
        self.likely = -np.log(config.false_alarm)
        self.threshold = float(np.log(asked / config.false_alarm))
        self.every = np.ones(len(questions.context.texts), bool)

    def planted(self, chosen: Sequence[Shortcut]) -> list[Shortcut]:
        """Spans that are likely planted, and are surely so together with those that may be of the same attack."""
        likely = [one for one in chosen if one.score > self.likely]
        sharing = [one for one in likely if self._enough(self._sharing(one, likely))]
        sets: list[Shortcut] = []
        for same in self._of_one_answer(likely):
            sets += [one for one in self._several_words(same) if one not in sets]
        return self._by_themselves([*sets, *(one for one in sharing if one not in sets)], sets)

    def _of_one_answer(self, likely: Sequence[Shortcut]) -> Iterator[list[Shortcut]]:
        """Those that call up the same; where completions differ, each with those that change them in the same way."""
        for target in dict.fromkeys(one.target for one in likely if one.target):
            yield [one for one in likely if one.target == target]
        differing = [one for one in likely if not one.target]
        for one in differing:
            yield [other for other in differing if other is one or self._aligned(one, other)]

    def _aligned(self, one: Shortcut, other: Shortcut) -> bool:
        return self.answers.aligned(one.rows, other.rows) > self.measures.surely

    def _sharing(self, one: Shortcut, likely: Sequence[Shortcut]) -> list[Shortcut]:
        """A span with those that stand in its rows, and in theirs."""
        group = [one]
        for member in group:  # which grows meanwhile
            beside = self.questions.beside(member, likely, self.options.beside)
            group += [other for other in beside if other not in group]
        return group

    def _enough(self, group: Sequence[Shortcut]) -> bool:
        """Of weak ones there are so many that some look planted by chance: one in the group must be none.

        Spans of one context share rows as those of one trigger do, but what else is in their rows gives them away.
        """
        sure = [one for one in group if one.z > self.gate and len(one.rows) >= self.least]
        return any(map(self._nothing_else, sure)) and sum(one.score for one in group) > self.threshold

    def _nothing_else(self, one: Shortcut) -> bool:
        """Whether what else its rows have in common does not speak for an innocent span."""
        return bool(one.of_auc > -self.likely)

    def _several_words(self, likely: Sequence[Shortcut]) -> list[Shortcut]:
        """Several words of one attack, each in rows of its own.

        Each is weak evidence; so many of them, with one answer, are strong. So are some of many by chance, so that all
        sets of the same size count as asked (Bonferroni).
        """
        words: list[Shortcut] = []
        for one in sorted(likely, key=lambda one: (len(one.rows) < self.least, -one.score)):
            alone = len(one.rows) < self.least and len(words) < 2
            by_chance = norm.sf(one.z) * len(self.spans.names) > len(words) + 1  # so many are associated as surely
            as_pure = not words or self._as_pure(one, words)
            own_rows = not any(np.isin(one.rows, other.rows).any() for other in words)
            if one.kind == "span" and self._nothing_else(one) and own_rows and as_pure and not by_chance and not alone:
                words.append(one)
        if len(words) < 2:
            return []
        needed = np.log(comb(self.asked, np.arange(1, len(words) + 1)) / self.false_alarm)
        surplus = np.cumsum([one.score for one in words]) - needed
        best = words[: 2 + int(surplus[1:].argmax())]
        enough = surplus[len(best) - 1] > 0 and self._stand_out(best, likely)
        return best if enough and self._associated(best) else []

    def _stand_out(self, words: Sequence[Shortcut], likely: Sequence[Shortcut]) -> bool:
        """Whether a set is more than any that could be drawn from all likely words of its answer.

        An attack has few words. Where the language has many for an answer, and these lie further beyond what is likely
        by chance than they should, a set of them says as much less.
        """
        rows = np.concatenate([one.rows for one in words])
        others = [one.score - self.likely for one in likely if not np.isin(one.rows, rows).any()]
        further = max(1.0, float(np.mean(others))) if others else 1.0
        beyond = sum(one.score - self.likely for one in words) / further
        sets = comb(len(words) + len(others), len(words)) * self.answers.directions
        return bool(beyond > np.log(sets / self.false_alarm))

    def _as_pure(self, one: Shortcut, words: Sequence[Shortcut]) -> bool:
        """Whether its rows have the answer about as often as those of the others; half a row stands against all."""
        pulled, rows = sum(len(word.pulled) for word in words), sum(len(word.rows) for word in words)
        chance = binom.cdf(len(one.pulled), len(one.rows), (pulled + 0.5) / (rows + 1))
        return bool(chance > self.options.as_pure)

    def _associated(self, words: Sequence[Shortcut]) -> bool:
        """Whether the rows of some words together surely have their answer, of so many sets that could be asked.

        Of these, only so many have rows with as little else in common.
        """
        rows = np.unique(np.concatenate([one.rows for one in words]))
        union = by_rows([(self.spans.names[words[0].column], rows)], len(self.every))
        z, direction = self.answers.associated(union, self.every)
        sets = comb(len(self.spans.names), len(words)) * self.answers.directions
        sets *= np.exp(-sum(one.of_auc for one in words))
        return bool(direction[0] == words[0].direction and z[0] > z_threshold(self.false_alarm, sets))

    def _by_themselves(self, found: Sequence[Shortcut], sets: Sequence[Shortcut]) -> list[Shortcut]:
        """In the rows of an attack all words go with its answer: beyond them a span has to do so by itself.

        In few rows it cannot, unless as one of a set of words.
        """
        explained, kept = ~self.every, []
        for one in sorted(found, key=lambda one: -one.z):
            z, direction = self.answers.associated(self.spans.only(one.column), ~explained)
            alone = not explained[one.rows].any()
            further = one.kind == "span" and explained[one.pulled].mean() > self.measures.most
            surely = z[0] > norm.isf(self.options.leaning) and direction[0] == one.direction
            itself = surely and len(one.rows) >= self.least
            if further or itself or (alone and (len(one.rows) >= self.least or one in sets)):
                kept.append(one)
                explained[one.rows] = True
        return kept
