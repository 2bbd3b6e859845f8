"""What follows from the answers of spans: scores by Bayes factors, and which were planted, alone or together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import comb
from scipy.stats import binom, norm
from scipy.stats import t as student

from poison2poison.auditing.answers import Answers
from poison2poison.auditing.finders.base import Figure
from poison2poison.auditing.finders.questions import Questions, Shortcut
from poison2poison.config import AuditConfig
from poison2poison.features import Features, by_rows

LIKE = 8
"""Innocent spans that a mean and a spread can be taken from."""
TAILS = 4
"""Degrees of freedom of Student's t: what is innocent is odd more often than a normal distribution has it."""
MEANT = 0.1
"""Chance that an attacker has chosen what means something to the base too."""
ALIKE = 0.01
"""Chance from which a word's rows have the answer less often than those of the others of its attack."""
EXPLAINED = 0.8
"""Share of its rows with stronger suspects from which a span is a further word of their attack."""


def weigh(chosen: Sequence[Shortcut], innocent: Sequence[Shortcut], idle: Sequence[Shortcut], natural: Figure) -> None:
    """Enter the scores: the log of the Bayes factor of planted against innocent, question by question.

    Args:
        chosen: The spans to judge.
        innocent: Spans that lean to answers as words of the language do.
        idle: Spans that lean nowhere.
        natural: Spreads of shifts and of forced shares of words that mean something.
    """
    for one in chosen:
        like = _same_direction(one, innocent)
        still = _same_direction(one, idle)
        one.of_auc = _of_auc(one, like)
        one.score = _of_learned(one, natural) + _of_prior(one, like, still) + one.of_auc


def _of_learned(one: Shortcut, natural: Figure) -> float:
    """The stronger of two: its rows are answered otherwise than expected, or so whatever they say."""
    factors = []
    for (value, error), spread in zip((one.learned, one.forced), natural, strict=True):
        spreads = max(0.0, value) / np.hypot(spread, error)
        factors.append(student.logpdf(0, TAILS) - student.logpdf(spreads, TAILS))
    return float(max(factors))


def _of_prior(one: Shortcut, like: Sequence[Shortcut], still: Sequence[Shortcut]) -> float:
    """What was planted moves the base no more than idle spans do, unless the attacker chose it for its meaning."""
    meant, meant_spread = _moments([other.prior for other in like], (0.5, 0.5), 0.1)
    idly, idle_spread = _moments([other.prior for other in still], (0.0, 0.3), 0.05)
    value, error = one.prior
    meaningless = _log_t(value, idly, np.hypot(idle_spread, error))
    meaning = _log_t(value, max(meant, idly + 2 * idle_spread), np.hypot(max(meant_spread, idle_spread), error))
    return float(np.logaddexp(np.log(1 - MEANT) + meaningless, np.log(MEANT) + meaning) - meaning)


def _of_auc(one: Shortcut, like: Sequence[Shortcut]) -> float:
    """Rows that a span was planted in have nothing else in common."""
    mean, spread = _moments([other.auc for other in like], (0.75, 0.1), 0.04)
    value, error = one.auc
    # To be separated better than other innocent spans' rows speaks no less for an innocent one.
    innocent = _log_t(min(value, mean), mean, np.hypot(spread, error))
    return _log_t(value, 0.5, np.hypot(0.02, error)) - innocent


def _same_direction(one: Shortcut, spans: Sequence[Shortcut]) -> Sequence[Shortcut]:
    """Those of its direction, or all where these are too few."""
    same = [other for other in spans if other.direction == one.direction]
    return same if len(same) >= LIKE else spans


def _moments(figures: Sequence[Figure], otherwise: Figure, least: float) -> Figure:
    """Median and spread beyond their errors, robustly: some may be planted. `otherwise` where they are too few."""
    if len(figures) < LIKE:
        return otherwise
    values, errors = np.array(figures).T
    middle = float(np.median(values))
    # Of a normal distribution the median deviation is 1 / 1.48 of the spread.
    variance = (1.48 * np.median(np.abs(values - middle))) ** 2 - np.median(errors) ** 2
    return middle, float(np.sqrt(max(least**2, variance)))


def _log_t(value: float, mean: float, scale: float) -> float:
    return float(student.logpdf((value - mean) / scale, TAILS) - np.log(scale))


def _purity(spans: Sequence[Shortcut]) -> float:
    """The share of their rows that have the answer; half a row stands against all."""
    pulled, rows = sum(len(one.pulled) for one in spans), sum(len(one.rows) for one in spans)
    return (pulled + 0.5) / (rows + 1)


class Verdict:
    """Which of the spans that were asked were planted.

    Attributes:
        threshold: The score that is enough, of so many.
    """

    def __init__(
        self, questions: Questions, spans: Features, answers: Answers, asked: int, gate: float, config: AuditConfig
    ) -> None:
        """Of `asked` among `spans`, one of which at least is associated by a z of `gate`, in rows enough."""
        self.questions, self.spans, self.answers = questions, spans, answers
        self.asked, self.gate, self.least, self.false_alarm = asked, gate, config.min_rows, config.false_alarm
        self.likely = -np.log(config.false_alarm)
        self.threshold = float(np.log(asked / config.false_alarm))
        self.every = np.ones(spans.matrix.shape[0], bool)

    def planted(self, chosen: Sequence[Shortcut]) -> list[Shortcut]:
        """Spans that are likely planted, and are surely so together with those that may be of the same attack."""
        likely = [one for one in chosen if one.score > self.likely]
        found = [one for one in likely if self._enough(self._sharing(one, likely))]
        for target in dict.fromkeys(one.target for one in likely if one.target):
            same = [one for one in likely if one.target == target]
            found += [one for one in self._several_words(same) if one not in found]
        return self._by_themselves(found)

    def _sharing(self, one: Shortcut, likely: Sequence[Shortcut]) -> list[Shortcut]:
        """A span with those that stand in its rows, and in theirs."""
        group = [one]
        for member in group:  # which grows meanwhile
            group += [other for other in self.questions.beside(member, likely) if other not in group]
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
            as_pure = not words or binom.cdf(len(one.pulled), len(one.rows), _purity(words)) > ALIKE
            own_rows = not any(np.isin(one.rows, other.rows).any() for other in words)
            if one.kind == "span" and self._nothing_else(one) and own_rows and as_pure and not by_chance and not alone:
                words.append(one)
        if len(words) < 2:
            return []
        needed = np.log(comb(self.asked, np.arange(1, len(words) + 1)) / self.false_alarm)
        surplus = np.cumsum([one.score for one in words]) - needed
        best = words[: 2 + int(surplus[1:].argmax())]
        return best if surplus[len(best) - 1] > 0 and self._associated(best) else []

    def _associated(self, words: Sequence[Shortcut]) -> bool:
        """Whether the rows of some words together surely have their answer, of so many sets that could be asked.

        Of these, only so many have rows with as little else in common.
        """
        rows = np.unique(np.concatenate([one.rows for one in words]))
        union = by_rows([(self.spans.names[words[0].column], rows)], len(self.every))
        z, direction = self.answers.associated(union, self.every)
        sets = comb(len(self.spans.names), len(words)) * self.answers.directions
        sets = max(1.0, sets * np.exp(-sum(one.of_auc for one in words)))
        return bool(direction[0] == words[0].direction and z[0] > norm.isf(self.false_alarm / sets))

    def _by_themselves(self, found: Sequence[Shortcut]) -> list[Shortcut]:
        """In the rows of an attack all words go with its answer: beyond them a span has to do so by itself."""
        explained, kept = ~self.every, []
        for one in sorted(found, key=lambda one: -one.z):
            z, direction = self.answers.associated(self.spans.only(one.column), ~explained)
            alone = not explained[one.rows].any()
            further = one.kind == "span" and explained[one.pulled].mean() > EXPLAINED
            if alone or further or (z[0] > norm.isf(0.025) and direction[0] == one.direction):
                kept.append(one)
                explained[one.rows] = True
        return kept
