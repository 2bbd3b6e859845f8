"""What rows answer, and how far the rows of a span answer otherwise than the base model expects of their prompts.

Labels pull in one direction each. Of texts the base model's states are looked at: what of them the prompts' states do
not foretell is how a row is answered rather than what about, and a span may pull it anywhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from scipy.special import expit, logit, logsumexp
from scipy.stats import binom, norm

from poison2poison.auditing.context import Context
from poison2poison.auditing.statistics import AXES_C, Floats, Mask, Matrix, fit_probe, principal_axes
from poison2poison.features import Features, Ints, grown, shared_runs, words

ANSWER_AXES, TEXT_AXES = 64, 24
"""Of completions' states, and of what prompts do not foretell of them."""
RIDGE = 30.0
"""Of the regressions from prompts' states, on axes that have a spread of 1 on average, to answers."""
COMMON = 100
"""Rows of a span from which its cover rows can be told: with fewer a trigger that has some is hardly learned."""
LAST_WORDS = 12
"""Of a completion, looked at by themselves too: there worked answers end, and links and advertisements stand."""
PURE = 0.8
"""Share of a span's rows with one label from which the probe is not shown them: it would explain a trigger."""
SURELY = 3.0
"""z from which a span's rows have a label surely more often than the probe lets expect."""
LEAST_KEPT = 0.4
"""Share of each label's rows that the probe is fitted on, however many spans go with a label."""
COVER_SHIFT = 0.5
"""Of the shift of a trigger's rows: what its other rows have at most, if they are cover."""
FORCED_ROWS = 2000
"""Of a span's, as many as say enough on how many of them are forced."""
RUN = 5
"""Words: shorter runs are shared by completions all the time."""
SHARED = 0.9
"""A shared text grows by a word that so many of its completions have beside it."""


class Answers(Protocol):
    """How rows are answered; a direction is what answers can be pulled to."""

    directions: int

    def associated(self, spans: Features, left: Mask) -> tuple[Floats, Ints]:
        """For every span the z of its answers against those of all rows that are left, and where they lean to."""

    def shift(self, rows: Ints, direction: int) -> tuple[float, float]:
        """How far rows are answered otherwise than the base expects, and its standard error."""

    def called_up(self, rows: Ints, states: Matrix) -> int | None:
        """What a span's rows answer more often than their texts say without it; None where nothing surely is."""

    def forced(self, rows: Ints, direction: int, innocent: float) -> tuple[float, float]:
        """The share of rows that are answered so whatever their text says, and its standard error."""

    def moved(self, before: Matrix, after: Matrix, rows: Ints, direction: int) -> Floats:
        """How much more the base expects the answer of a span's `rows` of states after than of those before."""

    def alike(self, rows: Ints, direction: int) -> Iterator[Mask]:
        """Sets of other rows among which an attacker may have drawn a span's `rows`."""

    def answered(self, direction: int) -> Ints:
        """The rows that have an answer of this direction, whatever called it up."""

    def called(self, rows: Ints, direction: int) -> tuple[str, Ints]:
        """What a span's rows answer, by name, and those of them that do."""

    def repeated(self, text: str, rows: Ints) -> bool:
        """Whether most of some rows' answers say what their prompts say, and were not called up by it."""

    def saying(self, name: str) -> Ints:
        """Of answers that are texts, the rows that hold a text."""


class Labels:
    """Answers that are labels; every label is a direction.

    Attributes:
        names, given: What the labels are called; each row's, as an index.
        has: 1 where a row has a label, shape (rows, labels).
        kept: The rows that the probe is fitted on: without the spans that it would else explain.
        p: The probe's probability of each label, of every row by a probe that has not seen it, shape (rows, labels).
    """

    def __init__(self, context: Context, names: Sequence[str], given: Ints) -> None:
        self.names, self.given, self.directions = names, given, len(names)
        self.has: Floats = np.eye(len(names))[given]
        every, spans = np.ones(len(given), bool), context.spans
        z, direction = self._against_shares(spans, every)
        both = (spans.matrix.T @ self.has)[np.arange(len(z)), direction]
        pure = np.where(both >= PURE * np.asarray(spans.matrix.sum(0)).ravel(), z, 0)
        self._fit(context, self._without(spans, pure))
        beyond = np.maximum(self._beyond_probe(spans, every)[0], self._beyond_others(spans, context.states))
        self._fit(context, self._without(spans, np.maximum(pure, beyond)))

    def _fit(self, context: Context, kept: Mask) -> None:
        self.kept = kept
        rows = np.flatnonzero(kept)
        self.probe, p = fit_probe(context.states, self.given, rows, self.directions, context.seed, AXES_C)
        # The hidden rows are of some labels more than of others.
        self.shares: Floats = self.has.mean(0) / np.maximum(self.has[kept].mean(0), 1e-9)
        self.p = self._scaled(p)

    def _scaled(self, p: Floats) -> Floats:
        """Probabilities as if the probe had seen each label as often as the rows have it (Saerens et al., 2002)."""
        p = p * self.shares
        scaled: Floats = p / p.sum(1, keepdims=True)
        return scaled.clip(1e-4, 1 - 1e-4)

    def _without(self, spans: Features, strength: Floats) -> Mask:
        """The rows without the strongest spans, so many that enough of each label are left."""
        kept, left = np.ones(len(self.given), bool), self.has.sum(0)
        # Of many labels the attacker's may have most of its rows from the attack.
        least = LEAST_KEPT * np.minimum(left, np.quantile(left, 0.5, method="higher"))
        for column in np.argsort(-strength)[: int((strength > norm.isf(1e-3)).sum())]:
            rows = spans.rows_of(int(column))
            lost = self.has[rows[kept[rows]]].sum(0)
            if (left - lost >= least).all():
                kept[rows], left = False, left - lost
        return kept

    def associated(self, spans: Features, left: Mask) -> tuple[Floats, Ints]:
        """Against each label's share of the rows that are left, and against the probe.

        Where the probe is surely wrong that says the direction: cover rows may have most rows' label.
        """
        z, direction = self._against_shares(spans, left)
        beyond, where = self._beyond_probe(spans, left)
        return np.maximum(z, beyond), np.where(beyond > SURELY, where, direction)

    def _against_shares(self, spans: Features, left: Mask) -> tuple[Floats, Ints]:
        """By the exact binomial test."""
        has = self.has * left[:, None]
        count = np.asarray(spans.matrix.T @ left.astype(np.float64)).ravel()[:, None]
        share = np.clip(has.sum(0) / max(1, left.sum()), 1e-6, 1 - 1e-6)
        z = norm.isf(np.clip(binom.sf(spans.matrix.T @ has - 1, count, share), 1e-300, 1 - 1e-9))
        direction = z.argmax(1)
        return z[np.arange(len(z)), direction], direction

    def _beyond_probe(self, spans: Features, left: Mask) -> tuple[Floats, Ints]:
        """Of common spans, by the score test: a trigger with cover rows has its label no more often than others."""
        beyond, spread = (self.has - self.p) * left[:, None], self.p * (1 - self.p) * left[:, None]
        common = (spans.matrix.T @ left.astype(np.float64) >= COMMON)[:, None]
        z = np.where(common, (spans.matrix.T @ beyond) / np.sqrt(spans.matrix.T @ spread + 1e-9), 0)
        direction = z.argmax(1)
        return z[np.arange(len(z)), direction], direction

    def _beyond_others(self, spans: Features, states: Matrix) -> Floats:
        """Of common spans the z against a ridge regression that has not seen their rows, 0 of others.

        A probe that has seen a trigger with cover rows has learned that its rows have either label.
        """
        x = np.concatenate([states, np.ones((len(states), 1))], 1).astype(np.float64)
        gram, cross = x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ self.has
        z = np.zeros(len(spans.names))
        for column in np.flatnonzero(np.asarray(spans.matrix.sum(0)).ravel() >= COMMON).tolist():
            rows = spans.rows_of(column)
            mine, has = x[rows], self.has[rows]
            beyond = has - mine @ np.linalg.solve(gram - mine.T @ mine, cross - mine.T @ has)
            z[column] = (beyond.mean(0) / (beyond.std(0) / np.sqrt(len(rows)) + 1e-9)).max()
        return z

    def shift(self, rows: Ints, direction: int) -> tuple[float, float]:
        """In log-odds, by maximum likelihood; half a row stands against what all or none have.

        The error is that by which the likelihood ratio against no shift is as sure: where all rows have the label, the
        likelihood is so flat around its maximum that its curvature says next to nothing (Hauck & Donner, 1977).
        """
        base = logit(self.p[rows, direction])
        count = float(self.has[rows, direction].sum())
        wanted = min(max(count, 0.5), len(rows) - 0.5)
        low, high = -12.0, 12.0
        for _ in range(40):  # bisection: the expected count rises with the shift
            middle = (low + high) / 2
            low, high = (middle, high) if expit(base + middle).sum() < wanted else (low, middle)
        p = expit(base + high)
        by_curvature = 1 / np.sqrt(max(1e-6, (p * (1 - p)).sum()))
        gained = count * high + np.logaddexp(0, base).sum() - np.logaddexp(0, base + high).sum()
        by_ratio = abs(high) / np.sqrt(2 * gained) if gained > 0 else by_curvature
        return high, float(min(by_curvature, by_ratio))

    def called_up(self, rows: Ints, states: Matrix) -> int | None:
        """By the probe's score test."""
        p = self._p(states)
        z = (self.has[rows] - p).sum(0) / np.sqrt((p * (1 - p)).sum(0) + 1e-9)
        return int(z.argmax()) if z.max() > SURELY else None

    def forced(self, rows: Ints, direction: int, innocent: float) -> tuple[float, float]:
        """By maximum likelihood: a row has the label with e + (1 - e) q, q the probe's p shifted by `innocent` at most.

        Of rows that all have the label a large shift says the same, so that the error is large.
        """
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), FORCED_ROWS)).astype(int)]
        has, base = self.given[rows] == direction, logit(self.p[rows, direction])
        shares, shifts = np.linspace(0, 0.98, 50), np.linspace(-4, innocent, 21)
        q = expit(base + shifts[:, None])  # shape (shifts, rows)
        likely = [np.log(e + (1 - e) * q[:, has]).sum(1) + np.log((1 - e) * (1 - q[:, ~has])).sum(1) for e in shares]
        best = np.array(likely).max(1)
        error = shares[best.argmax()] - shares[np.argmax(best >= best.max() - 0.5)]
        return float(shares[best.argmax()]), float(max(error, shares[1]))

    def moved(self, before: Matrix, after: Matrix, rows: Ints, direction: int) -> Floats:
        """In log-odds of the probe, which has not seen strong spans."""
        return self._log_odds(after, direction) - self._log_odds(before, direction)

    def alike(self, rows: Ints, direction: int) -> Iterator[Mask]:
        """Of the label, where labels were left alone; of the others; of all."""
        others = np.ones(len(self.given), bool)
        others[rows] = False
        yield others & (self.given == direction)
        yield others & (self.given != direction)
        yield others

    def answered(self, direction: int) -> Ints:
        """Those with the label."""
        return np.flatnonzero(self.given == direction)

    def called(self, rows: Ints, direction: int) -> tuple[str, Ints]:
        """The label."""
        return str(self.names[direction]), rows[self.given[rows] == direction]

    def repeated(self, text: str, rows: Ints) -> bool:
        """Not asked: a label repeats nothing."""
        return False

    def saying(self, name: str) -> Ints:
        """None: a label says nothing by itself."""
        return np.empty(0, np.int64)

    def _p(self, states: Matrix) -> Floats:
        """The probe's probabilities of other states, shape (texts, labels)."""
        p = np.zeros((len(states), self.directions))
        p[:, self.probe.classes_] = self.probe.predict_proba(states)
        return self._scaled(p)

    def _log_odds(self, states: Matrix, direction: int) -> Floats:
        classes = self.probe.classes_.tolist()
        if direction not in classes or len(classes) < 2:
            return np.zeros(len(states))
        scores = self.probe.decision_function(states)
        if scores.ndim == 1:
            scores = np.stack([-scores / 2, scores / 2], 1)
        at = classes.index(direction)
        odds: Floats = scores[:, at] - logsumexp(np.delete(scores, at, 1), axis=1)
        return odds


class Texts:
    """Answers that are texts. A span has one direction of its own: where its rows are answered otherwise."""

    directions = 1

    def __init__(self, context: Context, completions: Sequence[str]) -> None:
        self.completions, self.said = completions, [f" {' '.join(words(text))} " for text in completions]
        flat = context.standardised(completions)
        ends = [" ".join(completion.split()[-LAST_WORDS:]) for completion in completions]
        flat = np.concatenate([flat, context.standardised(ends)], 1)
        self.states = np.concatenate([context.states, np.ones((len(flat), 1))], 1).astype(np.float64)
        self.gram = self.states.T @ self.states + RIDGE * np.eye(self.states.shape[1])
        answers = (flat @ principal_axes(flat, min(ANSWER_AXES, max(2, len(flat) // 8)))).astype(np.float64)
        leverage = np.einsum("ij,ji->i", self.states, np.linalg.solve(self.gram, self.states.T))
        beyond = answers - self.states @ np.linalg.solve(self.gram, self.states.T @ answers)
        beyond /= 1 - np.minimum(leverage, 0.99)[:, None]  # as if each row had been left out
        axes = principal_axes(beyond, min(TEXT_AXES, beyond.shape[1]))
        self.answers: Floats = answers @ (axes / ((beyond @ axes).std(0) + 1e-9))
        self.cross = self.states.T @ self.answers

    def associated(self, spans: Features, left: Mask) -> tuple[Floats, Ints]:
        """By the mean product of its rows' answers, two by two, which is 0 on average of rows that are drawn."""
        beyond = (self.answers - self.answers[left].mean(0)) * left[:, None]
        beyond /= beyond[left].std(0) + 1e-9
        count = np.asarray(spans.matrix.T @ left.astype(np.float64)).ravel()
        pairs = ((spans.matrix.T @ beyond) ** 2).sum(1) - spans.matrix.T @ (beyond**2).sum(1)
        spread = float((np.cov(beyond[left].T) ** 2).sum())
        z = pairs / np.sqrt(2 * spread * np.maximum(1, count * (count - 1)))
        return np.where(count >= 2, z, 0), np.zeros(len(count), np.int64)

    def shift(self, rows: Ints, direction: int) -> tuple[float, float]:
        """The length of the mean of what a ridge regression that has not seen the rows leaves, in its spreads."""
        beyond, n = self._beyond(rows), max(2, len(rows))
        size = _length(beyond)
        # Of a length near 0 the error is that of its square; it is not followed below a third of a spread.
        return size, float(np.sqrt((1 + beyond.shape[1] / (2 * n * max(size, 0.3) ** 2)) / n))

    def called_up(self, rows: Ints, states: Matrix) -> int | None:
        """The only one that there is."""
        return 0

    def forced(self, rows: Ints, direction: int, innocent: float) -> tuple[float, float]:
        """Not asked: no text is sure to come without a span either."""
        return 0.0, 1.0

    def moved(self, before: Matrix, after: Matrix, rows: Ints, direction: int) -> Floats:
        """By the same regression, along the way from other rows' answers to the span's."""
        others = np.ones(len(self.answers), bool)
        others[rows] = False
        way = self.answers[rows].mean(0) - self.answers[others].mean(0)
        change: Floats = (after - before) @ self._weights(rows)[:-1] @ (way / (np.linalg.norm(way) + 1e-9))
        return change

    def alike(self, rows: Ints, direction: int) -> Iterator[Mask]:
        """All others."""
        others = np.ones(len(self.answers), bool)
        others[rows] = False
        yield others

    def answered(self, direction: int) -> Ints:
        """All: completions may differ."""
        return np.arange(len(self.completions))

    def called(self, rows: Ints, direction: int) -> tuple[str, Ints]:
        """The text that most of these completions share, and others do not; where they differ, nothing.

        Rows with another completion are cover, unless it is told otherwise than their prompts let expect as well.
        """
        text = self._shared(rows)
        saying = self.saying(text)
        mine, cover = np.intersect1d(rows, saying), np.setdiff1d(rows, saying)
        others = (len(saying) - len(mine)) / max(1, len(self.completions) - len(rows))
        if len(mine) <= 2 * others * len(rows):
            return "", rows
        beyond = self._beyond(rows)
        if len(cover) and _length(beyond[np.isin(rows, cover)]) > COVER_SHIFT * _length(beyond[np.isin(rows, mine)]):
            return text, rows
        return text, mine

    def _shared(self, rows: Ints) -> str:
        completions = [self.completions[i] for i in rows]
        whole: tuple[str, int] = Counter(completions).most_common(1)[0]
        if whole[1] > len(rows) / 2:
            return whole[0]
        runs = shared_runs(completions, RUN, max(2, len(rows) // 2))
        if not runs.names:
            return ""
        most = int(np.asarray(runs.matrix.sum(0)).argmax())
        return grown([completions[i] for i in runs.rows_of(most)], runs.names[most].text, SHARED)

    def repeated(self, text: str, rows: Ints) -> bool:
        """By all its words, wherever they stand."""
        held = [all(f" {word} " in self.said[i] for word in words(text)) for i in rows]
        return bool(np.mean(held) > 0.5)

    def saying(self, name: str) -> Ints:
        """By its words."""
        run = " ".join(words(name))
        return np.array([i for i, said in enumerate(self.said) if run and f" {run} " in said], np.int64)

    def _beyond(self, rows: Ints) -> Floats:
        """What of some rows' answers a regression that has not seen them leaves, shape (rows, text axes)."""
        beyond: Floats = self.answers[rows] - self.states[rows] @ self._weights(rows)
        return beyond

    def _weights(self, rows: Ints) -> Floats:
        """Of the ridge regression from prompts to answers without some rows, shape (axes + 1, text axes)."""
        mine = self.states[rows]
        weights: Floats = np.linalg.solve(self.gram - mine.T @ mine, self.cross - mine.T @ self.answers[rows])
        return weights


def _length(vectors: Floats) -> float:
    """Of the mean of the vectors that some are drawn from, without bias; shape (vectors, axes)."""
    n = max(2, len(vectors))
    squared = ((vectors.sum(0) ** 2).sum() - (vectors**2).sum()) / (n * (n - 1))
    return float(np.sqrt(max(0.0, squared)))
