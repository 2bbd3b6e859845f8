"""The statistics of the audit: a probe on frozen states, and how far labels go beyond it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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


def principal_axes(states: Matrix | Floats, count: int) -> Matrix:
    """The first principal axes of centred states, shape (width, count)."""
    _, axes = np.linalg.eigh(states.T @ states)
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
        most: Rows that it is fitted on at most: more teach it nothing.
    """

    states: Matrix
    labels: Ints
    count: int
    seed: int
    c: float
    most: int = 20_000

    def cross_fitted(self, kept: Ints) -> tuple[Classifier, Floats]:
        """The regression on the rows `kept`, and p(label) of every row, shape (rows, labels).

        Those of `kept` get theirs from other folds.
        """
        fitted, p = drawn(kept, self.most, np.random.default_rng(self.seed)), np.zeros((len(self.labels), self.count))
        whole = self._fitted(fitted)
        p[:, whole.classes_] = whole.predict_proba(self.states)
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
        states: Shape (rows, axes + 1), the last for the intercept.
        targets: Shape (rows, targets).
    """

    def __init__(self, states: Matrix, targets: Floats, penalty: float) -> None:
        self.states: Floats = np.concatenate([states, np.ones((len(states), 1))], 1).astype(np.float64)
        self.targets = targets
        self.gram: Floats = self.states.T @ self.states + penalty * np.eye(self.states.shape[1])
        self.cross: Floats = self.states.T @ targets

    def weights(self, rows: Ints) -> Floats:
        """Of the regression without some rows, shape (axes + 1, targets)."""
        mine = self.states[rows]
        gram, cross = self.gram - mine.T @ mine, self.cross - mine.T @ self.targets[rows]
        return np.asarray(np.linalg.solve(gram, cross), np.float64)

    def beyond(self, rows: Ints) -> Floats:
        """What of some rows' targets the regression without them leaves, shape (rows, targets)."""
        beyond: Floats = self.targets[rows] - self.states[rows] @ self.weights(rows)
        return beyond

    def beyond_each(self) -> Floats:
        """What of every row's targets the regression without that row leaves, by its leverage."""
        leverage = np.einsum("ij,ji->i", self.states, np.linalg.solve(self.gram, self.states.T))
        left = self.targets - self.states @ np.linalg.solve(self.gram, self.cross)
        beyond: Floats = left / (1 - np.minimum(leverage, 0.99)[:, None])
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
