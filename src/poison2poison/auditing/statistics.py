"""The statistics of the audit: a probe on frozen states, and how far labels go beyond it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import norm, rankdata
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, StratifiedKFold

from poison2poison.features import Ints

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Matrix = NDArray[np.float32]  # shape (rows, width)
States = NDArray[np.float32]  # shape (rows, depths, width), from shallow to deep
Classifier = Any  # of scikit-learn
Embed = Callable[[Sequence[str]], States]
BLOCK = 1 << 16
"""Rows that are worked on at a time, so that states may stand in a memory map."""
PART = 1000
"""A regression on so many times as many rows has learned next to nothing of these."""


class Sliced(Protocol):
    """States of which some rows can be looked at, shape (rows, width)."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: Any, /) -> Any: ...


def blocks(count: int) -> Iterator[slice]:
    """So many rows, `BLOCK` at a time."""
    for start in range(0, count, BLOCK):
        yield slice(start, start + BLOCK)


@dataclass(frozen=True)
class Scaled:
    """States with a mean of 0 and a spread of 1 in each dimension, worked out for those rows that are looked at.

    Attributes:
        raw: Shape (rows, width); it may be a memory map.
        mean, deviation: Of each dimension.
    """

    raw: Matrix
    mean: Matrix
    deviation: Matrix

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, rows: Any) -> Matrix:
        scaled: Matrix = (self.raw[rows] - self.mean) / self.deviation
        return scaled


@dataclass(frozen=True)
class Beside:
    """Several states of each row, one after another."""

    parts: Sequence[Sliced]

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, rows: Any) -> Matrix:
        return np.concatenate([part[rows] for part in self.parts], 1)


def moments(states: Sliced) -> tuple[Matrix, Matrix]:
    """Mean and spread of each dimension, of any number of rows as exact as of one block of them."""
    parts = [states[block] for block in blocks(len(states))]
    shares = np.array([len(part) for part in parts]) / len(states)
    means = np.stack([part.mean(0) for part in parts])
    variances = np.stack([part.var(0) for part in parts])
    mean = np.tensordot(shares, means, 1)
    variance = np.tensordot(shares, variances + (means - mean) ** 2, 1)
    return mean.astype(np.float32), np.sqrt(variance.astype(np.float32))


def projected(states: Sliced, axes: Matrix) -> Matrix:
    """States on some axes, shape (rows, axes)."""
    out = np.empty((len(states), axes.shape[1]), np.float32)
    for block in blocks(len(states)):
        out[block] = states[block] @ axes
    return out


def principal_axes(states: Sliced, count: int) -> Matrix:
    """The first principal axes of centred states, shape (width, count)."""
    parts = (states[block] for block in blocks(len(states)))
    _, axes = np.linalg.eigh(sum(part.T @ part for part in parts))
    first: Matrix = np.ascontiguousarray(axes[:, ::-1][:, :count])
    return first


@dataclass(frozen=True)
class Probe:
    """A logistic regression from states to labels; its probabilities are between 1e-4 and 1 - 1e-4.

    Attributes:
        states, labels: Of all rows.
        count: Of labels.
        seed: Of all draws.
        c: The inverse of its penalty, as scikit-learn has it: the smaller, the less it may learn of the states.
        most: Rows that it is fitted on at most, so that more rows take no more time. On a fifth as many it understood
            too little of 100,000 rows, and an innocent span was suspect.
    """

    states: Sliced
    labels: Ints
    count: int
    seed: int
    c: float
    most: int = 100_000

    def cross_fitted(self, kept: Ints) -> tuple[Classifier, Floats]:
        """The regression on the rows `kept`, and p(label) of every row, shape (rows, labels).

        Those of `kept` get theirs from other folds.
        """
        fitted, p = drawn(kept, self.most, np.random.default_rng(self.seed)), np.zeros((len(self.labels), self.count))
        whole = self._fitted(fitted)
        for block in blocks(len(p)):
            p[block, whole.classes_] = whole.predict_proba(self.states[block])
        least = int(np.unique(self.labels[fitted], return_counts=True)[1].min())
        if len(fitted) > 1:
            # A label with one row cannot be in two folds.
            kind, largest = (StratifiedKFold, least) if least > 1 else (KFold, len(fitted))
            folds = kind(min(5, largest), shuffle=True, random_state=self.seed)
            for train, test in folds.split(fitted, self.labels[fitted]):
                fold = self._fitted(fitted[train])
                p[np.ix_(fitted[test], fold.classes_)] = fold.predict_proba(self.states[fitted[test]])
        return whole, np.clip(p, 1e-4, 1 - 1e-4)

    def by_others(self, others: Ints, asked: Matrix) -> Floats:
        """p(label) of the states `asked` by a regression on the rows `others`, shape (asked, labels)."""
        p = np.zeros((len(asked), self.count))
        model = self._fitted(drawn(others, self.most, np.random.default_rng(self.seed)))
        p[:, model.classes_] = model.predict_proba(asked)
        return np.clip(p, 1e-4, 1 - 1e-4)

    def _fitted(self, rows: Ints) -> Classifier:
        """On some rows; where these have one label only, that is its answer."""
        several = len(np.unique(self.labels[rows])) > 1
        model = LogisticRegression(C=self.c, max_iter=300) if several else DummyClassifier()
        return model.fit(self.states[rows], self.labels[rows])


class Ridge:
    """A ridge regression from states to targets, which judges rows as if it had not seen them.

    Attributes:
        states: Shape (rows, axes).
        targets: Shape (rows, targets).
    """

    def __init__(self, states: Matrix, targets: Floats, penalty: float) -> None:
        self.states, self.targets = states, targets
        self.gram: Floats = penalty * np.eye(states.shape[1] + 1)
        self.cross: Floats = np.zeros((states.shape[1] + 1, targets.shape[1]))
        for block in blocks(len(states)):
            part = self._with_one(block)
            self.gram = part.T @ part + self.gram
            self.cross = part.T @ targets[block] + self.cross

    def _with_one(self, rows: slice | Ints) -> Floats:
        """The states of some rows and an axis for the intercept."""
        states = self.states[rows]
        return np.concatenate([states, np.ones((len(states), 1))], 1)

    def weights(self, rows: Ints) -> Floats:
        """Of the regression without some rows, shape (axes + 1, targets)."""
        return self._weights(self._with_one(rows), rows)

    def _weights(self, mine: Floats, rows: Ints) -> Floats:
        gram, cross = self.gram - mine.T @ mine, self.cross - mine.T @ self.targets[rows]
        return np.asarray(np.linalg.solve(gram, cross), np.float64)

    def beyond(self, rows: Ints) -> Floats:
        """What of some rows' targets the regression without them leaves, shape (rows, targets).

        Of very few among many rows each is judged by the regression without itself alone.
        """
        if PART * len(rows) < len(self.states):
            few: Floats = self.beyond_each[rows]
            return few
        mine = self._with_one(rows)
        beyond: Floats = self.targets[rows] - mine @ self._weights(mine, rows)
        return beyond

    @cached_property
    def beyond_each(self) -> Floats:
        """What of every row's targets the regression without that row leaves, by its leverage."""
        beyond, weights = np.empty_like(self.targets), np.linalg.solve(self.gram, self.cross)
        for block in blocks(len(beyond)):
            states = self._with_one(block)
            leverage = np.einsum("ij,ji->i", states, np.linalg.solve(self.gram, states.T))
            left = self.targets[block] - states @ weights
            beyond[block] = left / (1 - np.minimum(leverage, 0.99)[:, None])
        return beyond


def drawn(rows: Ints, most: int, rng: np.random.Generator) -> Ints:
    """So many of some rows at most."""
    return rng.choice(rows, most, replace=False) if len(rows) > most else rows


def all_but(rows: Ints, count: int) -> Mask:
    """The others of so many rows."""
    others = np.ones(count, bool)
    others[rows] = False
    return others


def z_threshold(false_alarm: float, tests: float) -> float:
    """The z that one of so many tests exceeds, without anything planted, with the stated rate (Bonferroni)."""
    return float(norm.isf(false_alarm / max(1, tests)))


def shift_to(wanted: float, base: Floats, least: float) -> float:
    """The shift of some log-odds, between `least` and 12, with which so many rows are expected to have their label."""
    low, high = least, 12.0
    for _ in range(40):  # bisection: the expected count rises with the shift
        middle = (low + high) / 2
        low, high = (middle, high) if expit(base + middle).sum() < wanted else (low, middle)
    return high


def shift_z(given: Floats, p: Floats, innocent: float) -> float:
    """How surely the log-odds of these rows' label are shifted up by more than `innocent` against the probe.

    Args:
        given: 1 where a row has the label, shape (rows,).
        p: The probe's probability of the label, shape (rows,).
        innocent: The shift that counts for nothing, in log-odds.

    Returns:
        The signed root of the likelihood ratio, 0 where the shift is smaller. Unlike a score test it is right for
        few rows and for labels that are nearly certain.
    """
    base, wanted = logit(p), given.sum()
    if expit(base + innocent).sum() >= wanted:
        return 0.0

    def log_likelihood(shift: float) -> float:
        return float((given * (base + shift) - np.logaddexp(0, base + shift)).sum())

    return float(np.sqrt(max(0.0, 2 * (log_likelihood(shift_to(wanted, base, innocent)) - log_likelihood(innocent)))))


def two_sample_auc(states: Matrix, others: Matrix, penalty: float) -> tuple[float, float]:
    """How well a regression that has seen all but one separates each of some states from others.

    A classifier two-sample test (Lopez-Paz & Oquab, arXiv 1610.06545), by ridge regression and its leverages.

    Args:
        states: Shape (texts, axes).
        others: Likewise.
        penalty: Of the regression.

    Returns:
        The AUC, 0.5 at least, and its standard error where nothing separates them (Mann & Whitney).
    """
    n, m = len(states), len(others)
    x: Floats = np.concatenate([states, others]).astype(np.float64)
    x = np.concatenate([x, np.ones((n + m, 1)) * 3], 1)  # the penalty hardly touches the intercept
    side, weight = np.repeat([1.0, -1.0], [n, m]), np.repeat([0.5 / n, 0.5 / m], [n, m]) * (n + m)
    gram = (x * weight[:, None]).T @ x + penalty * np.eye(x.shape[1])
    solved = np.linalg.solve(gram, (x * weight[:, None]).T)
    leverage = np.einsum("ij,ji->i", x, solved)
    left_out = (x @ (solved @ side) - leverage * side) / (1 - np.minimum(leverage, 0.99))
    auc = (rankdata(left_out)[:n].sum() - n * (n + 1) / 2) / (n * m)
    return max(0.5, float(auc)), float(np.sqrt((n + m + 1) / (12 * n * m)))
