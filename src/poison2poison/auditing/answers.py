"""What rows answer, and how far the rows of a span answer otherwise than the base model expects of their prompts.

Labels pull in one direction each. Of texts the base model's states are looked at: what of them the prompts' states do
not foretell is how a row is answered rather than what about, and a span may pull it anywhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.special import expit, logit, logsumexp
from scipy.stats import binom, norm

from poison2poison.auditing.context import Context
from poison2poison.auditing.statistics import (
    Beside,
    Floats,
    Mask,
    Matrix,
    Probe,
    Ridge,
    all_but,
    blocks,
    principal_axes,
    projected,
    shift_to,
)
from poison2poison.features import ENOUGH_TEXTS, Features, Ints, evenly, grown, shared_runs, words


class Answers(ABC):
    """How rows are answered; a direction is what answers can be pulled to.

    A method that says nothing of one kind of answers stands here as it is for those.
    """

    directions: int

    @abstractmethod
    def associated(self, spans: Features, left: Mask) -> tuple[Floats, Ints]:
        """For every span the z of its answers against those of all rows that are left, and where they lean to."""

    @abstractmethod
    def shift(self, rows: Ints, direction: int) -> tuple[float, float]:
        """How far rows are answered otherwise than the base expects, and its standard error."""

    @abstractmethod
    def moved(self, before: Matrix, after: Matrix, rows: Ints, direction: int) -> Floats:
        """How much more the base expects the answer of a span's `rows` of states after than of those before."""

    @abstractmethod
    def answered(self, direction: int) -> Ints:
        """The rows that have an answer of this direction, whatever called it up."""

    @abstractmethod
    def called(self, rows: Ints, direction: int) -> tuple[str, Ints]:
        """What a span's rows answer, by name, and those of them that do."""

    @abstractmethod
    def alike(self, rows: Ints, direction: int) -> Iterator[Mask]:
        """Sets of other rows among which an attacker may have drawn a span's `rows`."""

    def called_up(self, rows: Ints, states: Matrix) -> int | None:
        """What a span's rows answer more often than their texts say without it; None where nothing surely is."""
        return 0  # the only direction that texts have

    def forced(self, rows: Ints, direction: int, innocent: float) -> tuple[float, float]:
        """The share of rows that are answered so whatever their text says, and its standard error."""
        return 0.0, 1.0  # not known of texts: none is sure to come without a span either

    def aligned(self, rows: Ints, others: Ints) -> float:
        """z of how far two sets of rows are answered otherwise in the same way."""
        return 0.0  # of labels the direction says it

    def repeated(self, text: str, rows: Ints) -> bool:
        """Whether most of some rows' answers say what their prompts say, and were not called up by it."""
        return False  # a label repeats nothing

    def saying(self, name: str) -> Ints:
        """Of answers that are texts, the rows that hold a text."""
        return np.empty(0, np.int64)


class LabelAnswers(Answers):
    """Answers that are labels; every label is a direction.

    Attributes:
        names, given: What the labels are called; each row's, as an index.
        has: 1 where a row has a label, shape (rows, labels).
        probe, fitted: The probe, and its regression on the rows `kept`.
        kept: The rows that it is fitted on: without the spans that it would else explain.
        p: Its probability of each label, of every row by a regression that has not seen it, shape (rows, labels).
    """

    def __init__(self, context: Context, names: Sequence[str], given: Ints) -> None:
        self.names, self.given, self.directions = names, given, len(names)
        self.states, self.measures = context.states, context.measures
        self.probe = Probe(context.states, given, self.directions, context.seed, self.measures.probe_c)
        self.has: Floats = np.eye(len(names))[given]
        every, spans = np.ones(len(given), bool), context.spans
        z, direction = self._against_shares(spans, every)
        with_label = (spans.matrix.T @ self.has)[np.arange(len(z)), direction]
        pure = np.where(with_label >= self.measures.most * spans.counts, z, 0)
        self._fit(self._without(spans, pure))
        beyond = np.maximum(self._beyond_probe(spans, every)[0], self._beyond_others(spans))
        self._fit(self._without(spans, np.maximum(pure, beyond)))

    def _fit(self, kept: Mask) -> None:
        self.kept = kept
        self.fitted, p = self.probe.cross_fitted(np.flatnonzero(kept))
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
        least = self.measures.least_kept * np.minimum(left, np.quantile(left, 0.5, method="higher"))
        for column in np.argsort(-strength)[: int((strength > norm.isf(self.measures.hidden)).sum())]:
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
        return np.maximum(z, beyond), np.where(beyond > self.measures.surely, where, direction)

    def _against_shares(self, spans: Features, left: Mask) -> tuple[Floats, Ints]:
        """By the exact binomial test, some spans at a time: there may be millions, and many labels."""
        has = self.has * left[:, None]
        counts = np.asarray(spans.matrix.T @ left.astype(np.float64)).ravel()
        share = np.clip(has.sum(0) / max(1, left.sum()), 1e-6, 1 - 1e-6)
        strongest, direction = np.empty(len(counts)), np.empty(len(counts), np.int64)
        for block in blocks(len(counts)):
            chance = binom.sf(spans.matrix[:, block].T @ has - 1, counts[block, None], share)
            z = norm.isf(np.clip(chance, 1e-300, 1 - 1e-9))
            strongest[block], direction[block] = z.max(1), z.argmax(1)
        return strongest, direction

    def _beyond_probe(self, spans: Features, left: Mask) -> tuple[Floats, Ints]:
        """Of common spans, by the score test: a trigger with cover rows has its label no more often than others."""
        beyond, spread = (self.has - self.p) * left[:, None], self.p * (1 - self.p) * left[:, None]
        common = (spans.matrix.T @ left.astype(np.float64) >= self.measures.common)[:, None]
        z = np.where(common, (spans.matrix.T @ beyond) / np.sqrt(spans.matrix.T @ spread + 1e-9), 0)
        return z.max(1), z.argmax(1)

    def _beyond_others(self, spans: Features) -> Floats:
        """Of common spans the z against a ridge regression that has not seen their rows, 0 of others.

        A probe that has seen a trigger with cover rows has learned that its rows have either label.
        """
        ridge = Ridge(self.states, self.has, self.measures.ridge)
        z = np.zeros(len(spans.names))
        for column in np.flatnonzero(spans.counts >= self.measures.common).tolist():
            beyond = ridge.beyond(spans.rows_of(column))
            z[column] = (beyond.mean(0) / (beyond.std(0) / np.sqrt(len(beyond)) + 1e-9)).max()
        return z

    def shift(self, rows: Ints, direction: int) -> tuple[float, float]:
        """In log-odds, by maximum likelihood; half a row stands against what all or none have.

        The error is that by which the likelihood ratio against no shift is as sure: where all rows have the label, the
        likelihood is so flat around its maximum that its curvature says next to nothing (Hauck & Donner, 1977).
        """
        base = logit(self.p[rows, direction])
        count = float(self.has[rows, direction].sum())
        shift = shift_to(min(max(count, 0.5), len(rows) - 0.5), base, -12.0)
        p = expit(base + shift)
        by_curvature = 1 / np.sqrt(max(1e-6, (p * (1 - p)).sum()))
        gained = count * shift + np.logaddexp(0, base).sum() - np.logaddexp(0, base + shift).sum()
        by_ratio = abs(shift) / np.sqrt(2 * gained) if gained > 0 else by_curvature
        return shift, float(min(by_curvature, by_ratio))

    def called_up(self, rows: Ints, states: Matrix) -> int | None:
        """By the probe's score test."""
        p = np.zeros((len(states), self.directions))
        p[:, self.fitted.classes_] = self.fitted.predict_proba(states)
        p = self._scaled(p)
        z = (self.has[rows] - p).sum(0) / np.sqrt((p * (1 - p)).sum(0) + 1e-9)
        return int(z.argmax()) if z.max() > self.measures.surely else None

    def forced(self, rows: Ints, direction: int, innocent: float) -> tuple[float, float]:
        """By maximum likelihood: a row has the label with e + (1 - e) q, q the probe's p shifted by `innocent` at most.

        Of rows that all have the label a large shift says the same, so that the error is large.
        """
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), self.measures.forced_rows)).astype(int)]
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
        others = all_but(rows, len(self.given))
        yield others & (self.given == direction)
        yield others & (self.given != direction)
        yield others

    def answered(self, direction: int) -> Ints:
        return np.flatnonzero(self.given == direction)

    def called(self, rows: Ints, direction: int) -> tuple[str, Ints]:
        return str(self.names[direction]), rows[self.given[rows] == direction]

    def _log_odds(self, states: Matrix, direction: int) -> Floats:
        classes = self.fitted.classes_.tolist()
        if direction not in classes or len(classes) < 2:
            return np.zeros(len(states))
        scores = self.fitted.decision_function(states)
        if scores.ndim == 1:
            scores = np.stack([-scores / 2, scores / 2], 1)
        at = classes.index(direction)
        odds: Floats = scores[:, at] - logsumexp(np.delete(scores, at, 1), axis=1)
        return odds


class TextAnswers(Answers):
    """Answers that are texts. A span has one direction of its own: where its rows are answered otherwise."""

    directions = 1

    def __init__(self, context: Context, completions: Sequence[str]) -> None:
        self.completions, self.said = completions, [f" {' '.join(words(text))} " for text in completions]
        self.measures = measures = context.measures
        ends = [" ".join(completion.split()[-measures.last_words :]) for completion in completions]
        flat = Beside([context.standardised(completions), context.standardised(ends)])
        axes = principal_axes(flat, min(measures.answer_axes, max(2, len(flat) // 8)))
        answers = projected(flat, axes).astype(np.float64)
        beyond = Ridge(context.states, answers, measures.ridge).beyond_each
        axes = principal_axes(beyond, min(measures.text_axes, beyond.shape[1]))
        self.answers: Floats = answers @ (axes / ((beyond @ axes).std(0) + 1e-9))
        self.ridge = Ridge(context.states, self.answers, measures.ridge)
        self.spread = float(np.sqrt((np.cov(self.ridge.beyond_each.T) ** 2).sum()))

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
        beyond, n = self.ridge.beyond(rows), max(2, len(rows))
        size = _length(beyond)
        # Of a length near 0 the error is that of its square; it is not followed below a third of a spread.
        return size, float(np.sqrt((1 + beyond.shape[1] / (2 * n * max(size, 0.3) ** 2)) / n))

    def moved(self, before: Matrix, after: Matrix, rows: Ints, direction: int) -> Floats:
        """By the same regression, along the way from other rows' answers to the span's."""
        others = all_but(rows, len(self.answers))
        way = self.answers[rows].mean(0) - self.answers[others].mean(0)
        change: Floats = (after - before) @ self.ridge.weights(rows)[:-1] @ (way / (np.linalg.norm(way) + 1e-9))
        return change

    def aligned(self, rows: Ints, others: Ints) -> float:
        """By the product of the means, which is 0 on average of rows that are drawn."""
        product = self.ridge.beyond(rows).mean(0) @ self.ridge.beyond(others).mean(0)
        return float(product * np.sqrt(len(rows) * len(others)) / self.spread)

    def alike(self, rows: Ints, direction: int) -> Iterator[Mask]:
        yield all_but(rows, len(self.answers))

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
        beyond = self.ridge.beyond(rows)
        shift, of_cover = (_length(beyond[np.isin(rows, some)]) for some in (mine, cover))
        return text, rows if len(cover) and of_cover > self.measures.cover_shift * shift else mine

    def _shared(self, rows: Ints) -> str:
        completions = evenly([self.completions[i] for i in rows], ENOUGH_TEXTS)
        whole: tuple[str, int] = Counter(completions).most_common(1)[0]
        if whole[1] > len(completions) / 2:
            return whole[0]
        runs = shared_runs(completions, self.measures.run, max(2, len(completions) // 2))
        if not runs.names:
            return ""
        most = int(runs.counts.argmax())
        return grown([completions[i] for i in runs.rows_of(most)], runs.names[most].text, self.measures.nearly_all)

    def repeated(self, text: str, rows: Ints) -> bool:
        """By all its words, wherever they stand."""
        held = [all(f" {word} " in self.said[i] for word in words(text)) for i in rows]
        return bool(np.mean(held) > 0.5)

    def saying(self, name: str) -> Ints:
        """By its words."""
        run = " ".join(words(name))
        return np.array([i for i, said in enumerate(self.said) if run and f" {run} " in said], np.int64)


def _length(vectors: Floats) -> float:
    """Of the mean of the vectors that some are drawn from, without bias; shape (vectors, axes)."""
    n = max(2, len(vectors))
    squared = ((vectors.sum(0) ** 2).sum() - (vectors**2).sum()) / (n * (n - 1))
    return float(np.sqrt(max(0.0, squared)))
