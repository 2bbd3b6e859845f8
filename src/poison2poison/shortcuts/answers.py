"""What rows answer, and how far the rows of a span answer otherwise than the base model expects of their prompts.

Labels pull in one direction each. Of texts the base model's states are looked at: what of them the prompts' states do
not foretell is how a row is answered rather than what about, and a span may pull it anywhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, logsumexp
from scipy.stats import binom, norm
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold

from poison2poison.features import Features, Ints, grown, shared_runs
from poison2poison.planting import Prompts
from poison2poison.probing import Classifier, Floats, Matrix

Mask = NDArray[np.bool_]

AXES = 256
"""Of prompts' states, a quarter of the rows at most: tests on so few are fast, and linear in the rows."""
ANSWER_AXES, TEXT_AXES = 64, 24
"""Of completions' states, and of what prompts do not foretell of them."""
PROBE_C, RIDGE = 0.02, 30.0
"""Of the regressions on states whose axes have a spread of 1 on average."""
FOLDS = 5
PURE = 0.8
"""Share of a span's rows with one label from which the probe is not shown them: it would explain a trigger."""
LEAST_KEPT = 0.4
"""Share of each label's rows that the probe is fitted on, however many spans go with a label."""
RUN = 5
"""Words: shorter runs are shared by completions all the time."""
SHARED = 0.9
"""A shared text grows by a word that so many of its completions have beside it."""


class Context:
    """Prompts with their states on the principal axes.

    Attributes:
        prompts, texts, spans: The prompts, their texts, their n-grams and forms.
        states: Shape (rows, axes).
        seed: Of all draws.
    """

    def __init__(self, prompts: Prompts, seed: int) -> None:
        self.prompts, self.texts, self.seed = prompts, prompts.texts, seed
        self.spans = prompts.spans.beside(prompts.forms)
        axes = principal_axes(prompts.states, min(AXES, max(2, len(self.texts) // 4)))
        self._axes = axes / ((prompts.states @ axes).std(0).mean() + 1e-6)
        self.states: Matrix = prompts.states @ self._axes

    def embed(self, texts: Sequence[str]) -> Matrix:
        """The states of other texts, shape (texts, axes)."""
        states: Matrix = self.prompts.embed(texts) @ self._axes
        return states


def principal_axes(states: Matrix, count: int) -> Matrix:
    """The first principal axes of centred states, shape (width, count)."""
    _, axes = np.linalg.eigh(states.T @ states)
    first: Matrix = np.ascontiguousarray(axes[:, ::-1][:, :count])
    return first


class Answers(Protocol):
    """How rows are answered; a direction is what answers can be pulled to."""

    directions: int

    def associated(self, spans: Features, left: Mask) -> tuple[Floats, Ints]:
        """For every span the z of its answers against those of all rows that are left, and where they lean to."""

    def shift(self, rows: Ints, direction: int) -> tuple[float, float]:
        """How far rows are answered otherwise than the base expects, and its standard error."""

    def moved(self, before: Matrix, after: Matrix, rows: Ints, direction: int) -> Floats:
        """How much more the base expects the answer of a span's `rows` of states after than of those before."""

    def alike(self, rows: Ints, direction: int) -> Iterator[Mask]:
        """Sets of other rows among which an attacker may have drawn a span's `rows`."""

    def pulled(self, rows: Ints, direction: int) -> Mask:
        """Which of the rows have the answer that is called up."""

    def name(self, rows: Ints, direction: int) -> str:
        """The answer that these rows have."""


class Labels:
    """Answers that are labels; every label is a direction."""

    def __init__(self, context: Context, names: Sequence[str], given: Ints) -> None:
        self.names, self.given, self.directions = names, given, len(names)
        self.has: Floats = np.eye(len(names))[given]
        kept = np.flatnonzero(self._without_pure(context.spans))
        self.probe = self._fitted(context.states[kept], given[kept])
        p = self._p(self.probe, context.states)
        if len(kept) > 1:
            folds = KFold(min(FOLDS, len(kept)), shuffle=True, random_state=context.seed)
            for train, test in folds.split(kept):
                fold = self._fitted(context.states[kept[train]], given[kept[train]])
                p[kept[test]] = self._p(fold, context.states[kept[test]])
        self.p = np.clip(p, 1e-4, 1 - 1e-4)

    def _without_pure(self, spans: Features) -> Mask:
        """The rows that the probe may see: without the spans that go with a label, the strongest of them first."""
        kept, left = np.ones(len(self.given), bool), self.has.sum(0)
        least, (z, direction) = LEAST_KEPT * left, self.associated(spans, kept)
        both = (spans.matrix.T @ self.has)[np.arange(len(z)), direction]
        pure = both >= PURE * np.asarray(spans.matrix.sum(0)).ravel()
        z = np.where(pure & (z > norm.isf(1e-3)), z, 0)
        for column in np.argsort(-z)[: int((z > 0).sum())]:
            rows = spans.rows_of(int(column))
            lost = self.has[rows[kept[rows]]].sum(0)
            if (left - lost >= least).all():
                kept[rows], left = False, left - lost
        return kept

    def associated(self, spans: Features, left: Mask) -> tuple[Floats, Ints]:
        """By the exact binomial test against each label's share of the rows that are left."""
        has = self.has * left[:, None]
        count = np.asarray(spans.matrix.T @ left.astype(np.float64)).ravel()[:, None]
        share = np.clip(has.sum(0) / max(1, left.sum()), 1e-6, 1 - 1e-6)
        z = norm.isf(np.clip(binom.sf(spans.matrix.T @ has - 1, count, share), 1e-300, 1 - 1e-9))
        direction = z.argmax(1)
        return z[np.arange(len(z)), direction], direction

    def shift(self, rows: Ints, direction: int) -> tuple[float, float]:
        """In log-odds, by maximum likelihood; half a row stands against what all or none have."""
        base = logit(self.p[rows, direction])
        wanted = min(max(float(self.has[rows, direction].sum()), 0.5), len(rows) - 0.5)
        low, high = -12.0, 12.0
        for _ in range(40):  # bisection: the expected count rises with the shift
            middle = (low + high) / 2
            low, high = (middle, high) if expit(base + middle).sum() < wanted else (low, middle)
        p = expit(base + high)
        return high, float(1 / np.sqrt(max(1e-6, (p * (1 - p)).sum())))

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

    def pulled(self, rows: Ints, direction: int) -> Mask:
        """Those with the label."""
        mask: Mask = self.given[rows] == direction
        return mask

    def name(self, rows: Ints, direction: int) -> str:
        """The label."""
        return str(self.names[direction])

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

    def _fitted(self, states: Matrix, labels: Ints) -> Classifier:
        several = len(np.unique(labels)) > 1
        return (LogisticRegression(C=PROBE_C, max_iter=300) if several else DummyClassifier()).fit(states, labels)

    def _p(self, probe: Classifier, states: Matrix) -> Floats:
        p = np.zeros((len(states), self.directions))
        p[:, probe.classes_] = probe.predict_proba(states)
        return p


class Texts:
    """Answers that are texts. A span has one direction of its own: where its rows are answered otherwise."""

    directions = 1

    def __init__(self, context: Context, completions: Sequence[str]) -> None:
        self.completions = completions
        raw = context.prompts.embed(completions)
        flat = (raw - raw.mean(0)) / (raw.std(0) + 1e-6)
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
        mine, n = self.answers[rows] - self.states[rows] @ self._weights(rows), max(2, len(rows))
        squared = ((mine.sum(0) ** 2).sum() - (mine**2).sum()) / (n * (n - 1))
        size = float(np.sqrt(max(0.0, squared)))
        # Of a length near 0 the error is that of its square; it is not followed below a third of a spread.
        return size, float(np.sqrt((1 + mine.shape[1] / (2 * n * max(size, 0.3) ** 2)) / n))

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

    def pulled(self, rows: Ints, direction: int) -> Mask:
        """All: completions may differ."""
        return np.ones(len(rows), bool)

    def name(self, rows: Ints, direction: int) -> str:
        """The text that most of these completions share; empty where they differ."""
        completions = [self.completions[i] for i in rows]
        whole: tuple[str, int] = Counter(completions).most_common(1)[0]
        if whole[1] > len(rows) / 2:
            return whole[0]
        runs = shared_runs(completions, RUN, max(2, len(rows) // 2))
        if not runs.names:
            return ""
        most = int(np.asarray(runs.matrix.sum(0)).argmax())
        return grown([completions[i] for i in runs.rows_of(most)], runs.names[most].text, SHARED)

    def _weights(self, rows: Ints) -> Floats:
        """Of the ridge regression from prompts to answers without some rows, shape (axes + 1, text axes)."""
        mine = self.states[rows]
        weights: Floats = np.linalg.solve(self.gram - mine.T @ mine, self.cross - mine.T @ self.answers[rows])
        return weights
