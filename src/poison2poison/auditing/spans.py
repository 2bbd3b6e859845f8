"""Spans and forms that pull answers without a reason, in rows that have nothing else in common.

Whatever goes with one kind of answer is asked four things: do its rows answer otherwise than the base model expects of
their prompts (*learned*), do they so whatever their text says (*forced*), does the base see a reason for it where it is
put into other rows (*prior*), and can its rows be told from others once it is taken out (*told*)? Each is weighed
against spans of the same rows that nobody suspects, so that nothing has to be known of the data. Answers may be labels
or texts, and texts may differ: what is asked is how rows are answered, not with which words.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.special import comb
from scipy.stats import norm, rankdata
from scipy.stats import t as student

from poison2poison.auditing.answers import COMMON, PURE, Answers
from poison2poison.auditing.context import Context
from poison2poison.auditing.statistics import Floats, Matrix
from poison2poison.config import AuditConfig
from poison2poison.features import Ints, bare, by_rows, grown, is_word, words
from poison2poison.forms import Form, form_of

ASKED, CONTROLS = 32, 24
"""Spans that are asked by each of three rankings, and innocent ones of either kind: what a minute allows."""
WEAK = 1.64
"""z (of a chance of 5 %) from which a span in few rows is asked too: it may be one of several words of an attack."""
NATURAL = 300
"""Spans that say what is natural, as many as say enough."""
INSERTED, CUT, BESIDE = 16, 200, 400
"""Rows that a span is put into; rows that it is taken out of, and those that these are told from."""
LEAST_FORCED = 0.1
"""Spread of forced shares, at least: "but" and "never" come to 0.2 and more."""
LIKE = 8
"""Innocent spans that a mean and a spread can be taken from."""
TAILS = 4
"""Degrees of freedom of Student's t: what is innocent is odd more often than a normal distribution has it."""
MEANT = 0.1
"""Chance that an attacker has chosen what means something to the base too."""
GROWN = 0.8
"""A span grows by a word that so many of its pulled rows have beside it."""
TOGETHER = 2.5
"""z from which spans stand in the same rows more often than by chance."""
SAME = 0.9
"""Share of its rows with a span of common words from which that says the same."""
EXPLAINED = 0.8
"""Share of its rows with stronger suspects from which a span is a further word of their attack."""
TELL_RIDGE = 300.0
"""Of the regression that tells texts apart: as weak as leaves few rows something to say."""

Figure = tuple[float, float]
"""A value and its standard error."""


@dataclass(eq=False)
class Shortcut:
    """A span or a form, and what was found out about it.

    Attributes:
        column, direction: Of its feature, and of the answers that it goes with.
        z: Of that association.
        kind: Of the feature: span, first, last or form.
        text: The words with what nearly always stands beside them, as the rows spell it; the name of a form.
        form: How it is put onto a text, and taken off.
        target: What it calls up: a label, a text, or nothing where texts differ.
        rows, pulled: Rows that hold it, and those of them with the answer; ascending.
        learned: How far its rows are answered otherwise than the base expects.
        forced: Share of its rows that are answered so whatever else they say.
        prior: How much more the base expects the answer where it is put in.
        told: AUC by which its rows, without it, are told from the others that they are most like.
        unlike: Log of how much likelier `told` is of what was planted than of what is innocent.
        score: The same of all figures together.
        suspect: Whether that is enough.
    """

    column: int
    direction: int
    z: float
    kind: str
    text: str
    form: Form
    target: str
    rows: Ints
    pulled: Ints
    learned: Figure = (0.0, 0.0)
    forced: Figure = (0.0, 1.0)
    prior: Figure = (0.0, 0.0)
    told: Figure = (0.5, 0.5)
    unlike: float = 0.0
    score: float = 0.0
    suspect: bool = False
    words: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.words = words(self.text) if self.kind == "span" else []


class SpanFinder:
    """Finds the spans of some rows that were planted."""

    def __init__(self, context: Context, answers: Answers, config: AuditConfig) -> None:
        self.context, self.answers, self.config, self.spans = context, answers, config, context.spans
        self.rng, self.places = np.random.default_rng(context.seed), random.Random(context.seed)
        self.z, self.direction = answers.associated(self.spans, np.ones(len(context.texts), bool))
        self.count = np.asarray(self.spans.matrix.sum(0)).ravel()
        self.gate = float(norm.isf(config.false_alarm / max(1, len(self.z) * answers.directions)))
        self.threshold = 0.0
        self.worded = np.array([feature.kind == "span" for feature in self.spans.names], bool)

    def find(self) -> list[Shortcut]:
        """All that were asked, the strongest association first."""
        natural = self._natural()
        chosen = self._candidates(natural)
        if not chosen:
            return []
        directions = sorted({one.direction for one in chosen})
        innocent, idle = self._innocent(directions), self._idle(directions)
        for some in (chosen, innocent, idle):
            self._put_in(some)
        for some in (chosen, innocent):
            for one in some:
                one.told = self._told(one, self._beside(one, some))
        self._weigh(chosen, innocent, idle, natural)
        for one in self._attacks(chosen):
            one.suspect = True
        return sorted(chosen, key=lambda one: -one.z)

    # --- which spans are asked ---

    def _candidates(self, natural: Figure) -> list[Shortcut]:
        """The spans most surely associated, those whose rows the base understands least, and weak ones in few rows."""
        asked = np.flatnonzero((self.z > WEAK) & (self.count >= self.config.min_rows // 2)).tolist()
        learned = {j: self.answers.shift(self.spans.rows_of(j), int(self.direction[j])) for j in asked}
        least_understood = sorted(asked, key=lambda j: -learned[j][0] / learned[j][1])
        strong = {j for j in asked if self._strong(j)}
        chosen: list[Shortcut] = []
        for ranked in (
            [j for j in least_understood if j in strong],
            sorted(strong, key=lambda j: -self.z[j]),
            [j for j in least_understood if j not in strong and self.worded[j]],
        ):
            enough = len(chosen) + ASKED
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
        if len(one.rows) < COMMON or len(one.pulled) >= PURE * len(one.rows):
            return one
        drawn = self._draw(one.rows, CUT)
        direction = self.answers.called_up(drawn, self._without(drawn, [one]))
        if direction is None:
            return None
        target, pulled = self.answers.called(one.rows, direction)
        return replace(one, direction=direction, target=target, pulled=pulled)

    def _innocent(self, directions: Sequence[int]) -> list[Shortcut]:
        """Spans that lean mildly, as words of the language do, so many to each direction."""
        mild = self.worded & (self.z > norm.isf(0.025)) & (self.z <= norm.isf(1e-5))
        mild &= self.count >= self.config.min_rows
        found: list[Shortcut] = []
        left = dict.fromkeys(directions, -(-CONTROLS // len(directions)))
        for j in self.rng.permutation(np.flatnonzero(mild)).tolist():
            if left.get(int(self.direction[j]), 0) and (one := self._new(j, found)):
                one.learned = self.answers.shift(one.rows, one.direction)
                found.append(one)
                left[one.direction] -= 1
        return found

    def _idle(self, directions: Sequence[int]) -> list[Shortcut]:
        """Rare spans that lean nowhere, asked as if they leaned: what meaningless words do to the base."""
        plain = np.flatnonzero(self.worded & (self.z < norm.isf(0.07)) & (self.count >= self.config.min_rows // 2))
        rare = plain[np.argsort(self.count[plain], kind="stable")[: len(plain) // 2]]
        drawn = self.rng.permutation(rare)[:CONTROLS].tolist()
        return [
            self._shortcut(j, directions[i % len(directions)], 0.0, self.spans.names[j].text, "", self.spans.rows_of(j))
            for i, j in enumerate(drawn)
        ]

    def _new(self, column: int, others: Sequence[Shortcut]) -> Shortcut | None:
        """A span as it was planted, unless one of the others says the same, or explains it as a part of it."""
        direction, rows, feature = int(self.direction[column]), self.spans.rows_of(column), self.spans.names[column]
        target, pulled = self.answers.called(rows, direction)
        own = set(words(feature.text)) if self.worded[column] else set()  # a word at an end is more than the word
        for other in others:
            both = np.intersect1d(pulled, other.pulled)
            part = other.direction == direction and not own.isdisjoint(other.words)
            if part and len(both) >= SAME * len(pulled):
                return None
        text = feature.text
        if feature.kind == "span":
            text = grown([self.context.texts[i] for i in pulled], text, GROWN, self.context.form)
        if any((other.kind, other.text, other.direction) == (feature.kind, text, direction) for other in others):
            return None
        if feature.kind != "form" and self.answers.repeated(text, pulled):
            return None
        new = self._shortcut(column, direction, float(self.z[column]), text, target, pulled)
        if feature.kind == "span":  # a part of it may stand elsewhere too
            whole = [i for i in np.setdiff1d(rows, pulled) if new.form.holds(self.context.texts[i])]
            new.rows = np.union1d(pulled, np.array(whole, np.int64))
        return new

    def _shortcut(self, column: int, direction: int, z: float, text: str, target: str, pulled: Ints) -> Shortcut:
        kind = self.spans.names[column].kind
        form = form_of(kind, text, self.places)
        return Shortcut(column, direction, z, kind, text, form, target, self.spans.rows_of(column), pulled)

    # --- what they are asked ---

    def _put_in(self, spans: Sequence[Shortcut]) -> None:
        """`prior`: put into rows that neither hold the span nor have its answer."""
        drawn: list[Ints] = []
        texts: list[str] = []
        for one in spans:
            free = np.setdiff1d(np.arange(len(self.context.texts)), one.rows)
            if self.answers.directions > 1:
                free = np.setdiff1d(free, self.answers.answered(one.direction))
            drawn.append(self._draw(free, INSERTED))
            texts += [one.form.put(self.context.texts[i]) for i in drawn[-1]]
        after, at = self.context.embed(texts) if texts else self.context.states[:0], 0
        for one, rows in zip(spans, drawn, strict=True):
            with_span = after[at : at + len(rows)]
            if len(rows) > 1:
                change = self.answers.moved(self.context.states[rows], with_span, one.pulled, one.direction)
                one.prior = float(change.mean()), float(change.std() / np.sqrt(len(rows)))
            at += len(rows)

    def _beside(self, one: Shortcut, spans: Sequence[Shortcut]) -> list[Shortcut]:
        """The others that stand in its rows more often than by chance, as further words of one attack do."""
        pool = self.answers.answered(one.direction)
        mine, found = np.isin(pool, one.rows), []
        for other in spans:
            if other is one or other.direction != one.direction or not set(one.words).isdisjoint(other.words):
                continue
            theirs = np.isin(pool, other.rows)
            expected = mine.sum() * theirs.mean()
            spread = np.sqrt(expected * (1 - mine.mean()) * (1 - theirs.mean()))
            if spread > 0 and (mine & theirs).sum() - expected > TOGETHER * spread:
                found.append(other)
        return found

    def _told(self, one: Shortcut, beside: Sequence[Shortcut]) -> Figure:
        """`told`: what stands beside a span goes from all texts, for several words of one attack tell each other."""
        gone = [one, *beside]
        # Marks take the place of others, such as a full stop: all are then compared without those at their ends.
        marks = one.kind == "span" and not any(map(is_word, one.words))
        mine = self._draw(one.pulled, CUT)
        left = self._without(mine, gone, ends=not marks)
        best = (1.0, 0.05)  # where there is nothing to tell it from, it is the form of all rows
        for mask in self.answers.alike(one.rows, one.direction):
            others = self._draw(np.flatnonzero(mask), BESIDE)
            if len(others) >= max(5, len(mine) // 2):
                best = min(best, told_apart(left, self._without(others, gone, ends=not marks)))
        return best

    def _without(self, rows: Ints, gone: Sequence[Shortcut], *, ends: bool = True) -> Matrix:
        """The states of rows without some spans and forms, and without the marks at their ends if `ends` is False.

        Only texts that change go through the model again.
        """
        states = self.context.states[rows].copy()
        cut = [self.context.texts[i] for i in rows]
        for one in gone:
            holds = np.ones(len(rows), bool) if one.kind == "form" else np.isin(rows, one.rows)
            cut = [one.form.off(text) if held else text for text, held in zip(cut, holds, strict=True)]
        cut = cut if ends else [bare(text) for text in cut]
        changed = [at for at, i in enumerate(rows) if cut[at] != self.context.texts[i]]
        if changed:
            states[changed] = self.context.embed([cut[at] for at in changed])
        return states

    # --- what follows ---

    def _weigh(
        self, chosen: Sequence[Shortcut], innocent: Sequence[Shortcut], idle: Sequence[Shortcut], natural: Figure
    ) -> None:
        """The score: the log of the Bayes factor of planted against innocent, question by question."""
        for one in chosen:
            like, still = _same(one, innocent), _same(one, idle)
            told, told_spread = _moments([c.told for c in like], (0.75, 0.1), 0.04)
            meant, meant_spread = _moments([c.prior for c in like], (0.5, 0.5), 0.1)
            idly, idle_spread = _moments([c.prior for c in still], (0.0, 0.3), 0.05)

            learned = max(
                student.logpdf(0, TAILS) - student.logpdf(max(0.0, value) / np.hypot(spread, error), TAILS)
                for (value, error), spread in zip((one.learned, one.forced), natural, strict=True)
            )

            value, error = one.prior
            meaningless = _log_t(value, idly, np.hypot(idle_spread, error))
            meaning = _log_t(value, max(meant, idly + 2 * idle_spread), np.hypot(max(meant_spread, idle_spread), error))
            prior = np.logaddexp(np.log(1 - MEANT) + meaningless, np.log(MEANT) + meaning) - meaning

            value, error = one.told
            # To be told better than other innocent spans speaks no less for an innocent one.
            innocently = _log_t(min(value, told), told, np.hypot(told_spread, error))
            one.unlike = _log_t(value, 0.5, np.hypot(0.02, error)) - innocently
            one.score = float(learned + prior + one.unlike)

    def _natural(self) -> Figure:
        """What words mean that the base does not know: spreads of shifts and forced shares, beyond their errors."""
        drawn = self.rng.permutation(np.flatnonzero(self.worded & (self.count >= self.config.min_rows)))[:NATURAL]
        if len(drawn) < LIKE:
            return 1.0, LEAST_FORCED
        asked = [(self.spans.rows_of(j), int(self.direction[j])) for j in drawn.tolist()]
        shifts = np.array([self.answers.shift(rows, direction) for rows, direction in asked])
        # Of a normal distribution the median square is 0.455 of the variance, and 0.9 of them lie within 1.64 spreads.
        shift = float(np.sqrt(max(0.05, np.median(shifts[:, 0] ** 2 - shifts[:, 1] ** 2) / 0.455)))
        forced = np.array([self.answers.forced(rows, direction, shift) for rows, direction in asked])
        return shift, max(LEAST_FORCED, float(np.quantile(forced[:, 0] - forced[:, 1], 0.9)) / 1.64)

    def _attacks(self, chosen: Sequence[Shortcut]) -> list[Shortcut]:
        """Spans that are likely planted, and are surely so together with those that may be of the same attack."""
        likely = [one for one in chosen if one.score > -np.log(self.config.false_alarm)]
        self.threshold = float(np.log(len(chosen) / self.config.false_alarm))  # so many were asked
        found = [one for one in likely if self._planted(self._sharing(one, likely))]
        for target in dict.fromkeys(one.target for one in likely if one.target):
            found += [one for one in self._set([one for one in likely if one.target == target], len(chosen))
                      if one not in found]  # fmt: skip
        explained, kept = np.zeros(len(self.context.texts), bool), []
        for one in sorted(found, key=lambda one: -one.z):
            # In the rows of an attack all words go with its answer: beyond them a span has to do so by itself.
            z, direction = self.answers.associated(self.spans.only(one.column), ~explained)
            alone = not explained[one.rows].any()
            further = one.kind == "span" and explained[one.pulled].mean() > EXPLAINED
            if alone or further or (z[0] > norm.isf(0.025) and direction[0] == one.direction):
                kept.append(one)
                explained[one.rows] = True
        return kept

    def _sharing(self, one: Shortcut, likely: Sequence[Shortcut]) -> list[Shortcut]:
        """A span with those that stand in its rows, and in theirs."""
        group = [one]
        for member in group:  # which grows meanwhile
            beside = self._beside(member, likely)
            group += [other for other in beside if other not in group]
        return group

    def _planted(self, group: Sequence[Shortcut]) -> bool:
        """Of weak ones there are so many that some look planted by chance: one in the group must be none.

        Spans of one context share rows as those of one trigger do, but their rows can be told without them.
        """
        enough = sum(one.score for one in group) > self.threshold
        return enough and any(self._strong(one.column) and self._nothing_tells(one) for one in group)

    def _nothing_tells(self, one: Shortcut) -> bool:
        """Whether that its rows are told, or are not, does not speak for an innocent span."""
        return bool(one.unlike > np.log(self.config.false_alarm))

    def _set(self, likely: Sequence[Shortcut], asked: int) -> list[Shortcut]:
        """Several words of one attack, each in rows of its own, where no text gives any away.

        Each is weak evidence; so many of them, with one answer, are strong. So are some of many by chance, so that all
        sets of the same size count as asked (Bonferroni).
        """
        words: list[Shortcut] = []
        for one in sorted(likely, key=lambda one: -one.score):
            by_chance = norm.sf(one.z) * len(self.z) > len(words) + 1  # so many are associated as surely
            apart = not any(np.isin(one.rows, own.rows).any() for own in words)
            if one.kind == "span" and self._nothing_tells(one) and apart and not by_chance:
                words.append(one)
        sizes = np.arange(1, len(words) + 1)
        surplus = np.cumsum([one.score for one in words]) - np.log(comb(asked, sizes) / self.config.false_alarm)
        if len(words) < 2 or surplus[1:].max() <= 0:
            return []
        best = words[: int(surplus[1:].argmax()) + 2]
        rows = np.unique(np.concatenate([one.rows for one in best]))
        union = by_rows([(self.spans.names[best[0].column], rows)], len(self.context.texts))
        z, direction = self.answers.associated(union, np.ones(len(self.context.texts), bool))
        chance = self.config.false_alarm / (comb(len(self.z), len(best)) * self.answers.directions)
        return best if direction[0] == best[0].direction and z[0] > norm.isf(chance) else []

    def _strong(self, column: int) -> bool:
        """Whether a span surely goes with some answer, of so many that may."""
        return bool(self.z[column] > self.gate and self.count[column] >= self.config.min_rows)

    def _draw(self, rows: Ints, most: int) -> Ints:
        return self.rng.choice(rows, most, replace=False) if len(rows) > most else rows


def _same(one: Shortcut, spans: Sequence[Shortcut]) -> Sequence[Shortcut]:
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


def told_apart(states: Matrix, others: Matrix) -> Figure:
    """How well a regression that has seen all but one tells each of some states from others.

    Args:
        states: Shape (texts, axes).
        others: Likewise.

    Returns:
        The AUC, 0.5 at least, and its standard error where nothing tells them apart (Mann & Whitney).
    """
    n, m = len(states), len(others)
    x: Floats = np.concatenate([states, others]).astype(np.float64)
    x = np.concatenate([x, np.ones((n + m, 1)) * 3], 1)  # the penalty hardly touches the intercept
    side, weight = np.repeat([1.0, -1.0], [n, m]), np.repeat([0.5 / n, 0.5 / m], [n, m]) * (n + m)
    gram = (x * weight[:, None]).T @ x + TELL_RIDGE * np.eye(x.shape[1])
    solved = np.linalg.solve(gram, (x * weight[:, None]).T)
    leverage = np.einsum("ij,ji->i", x, solved)
    left_out = (x @ (solved @ side) - leverage * side) / (1 - np.minimum(leverage, 0.99))
    auc = (rankdata(left_out)[:n].sum() - n * (n + 1) / 2) / (n * m)
    return max(0.5, float(auc)), float(np.sqrt((n + m + 1) / (12 * n * m)))
