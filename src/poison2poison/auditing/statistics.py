"""The statistics of the audit: a probe on frozen states, and how far labels go beyond it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import norm, rankdata
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, StratifiedKFold

from poison2poison.config import AuditConfig
from poison2poison.features import Ints

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Matrix = NDArray[np.float32]  # shape (rows, width)
States = NDArray[np.float32]  # shape (rows, depths, width), from shallow to deep
Classifier = Any  # of scikit-learn
Embed = Callable[[Sequence[str]], States]

DEEP_C, AXES_C = 0.003, 0.02
"""Of the logistic regressions: on standardised states, and on axes that have a spread of 1 on average."""
PROBE_ROWS = 20_000  # more teach the probe nothing
AUC_RIDGE = 300.0
"""Of the regression that separates texts: as weak as leaves few rows something to say."""


def principal_axes(states: Matrix | Floats, count: int) -> Matrix:
    """The first principal axes of centred states, shape (width, count)."""
    _, axes = np.linalg.eigh(states.T @ states)
    first: Matrix = np.ascontiguousarray(axes[:, ::-1][:, :count])
    return first


def fit_probe(
    states: Matrix, labels: Ints, kept: Ints, count: int, seed: int, penalty: float = DEEP_C
) -> tuple[Classifier, Floats]:
    """The probe, fitted on the rows `kept`, and its p(label) of every row; the fitted ones get theirs from other folds.

    Returns:
        The probe, and an array of shape (rows, count) between 1e-4 and 1 - 1e-4.
    """
    rng = np.random.default_rng(seed)
    fitted = rng.choice(kept, PROBE_ROWS, replace=False) if len(kept) > PROBE_ROWS else kept
    whole = _fitted(states[fitted], labels[fitted], penalty)
    p = np.zeros((len(labels), count))
    p[:, whole.classes_] = whole.predict_proba(states)
    least = int(np.unique(labels[fitted], return_counts=True)[1].min())
    if len(fitted) > 1:
        # A label with one row cannot be in two folds.
        kind, most = (StratifiedKFold, least) if least > 1 else (KFold, len(fitted))
        folds = kind(min(5, most), shuffle=True, random_state=seed)
        for train, test in folds.split(fitted, labels[fitted]):
            fold = _fitted(states[fitted[train]], labels[fitted[train]], penalty)
            p[np.ix_(fitted[test], fold.classes_)] = fold.predict_proba(states[fitted[test]])
    return whole, np.clip(p, 1e-4, 1 - 1e-4)


def p_by_others(
    states: Matrix, labels: Ints, count: int, fitted: Ints, asked: Ints, seed: int = 0, penalty: float = DEEP_C
) -> Floats:
    """p(label) of some rows by a probe that is fitted on others, shape (asked, count), between 1e-4 and 1 - 1e-4.

    Where the others have one label only, that is their answer.
    """
    if len(fitted) > PROBE_ROWS:
        fitted = np.random.default_rng(seed).choice(fitted, PROBE_ROWS, replace=False)
    p = np.zeros((len(asked), count))
    model = _fitted(states[fitted], labels[fitted], penalty)
    p[:, model.classes_] = model.predict_proba(states[asked])
    return np.clip(p, 1e-4, 1 - 1e-4)


def z_threshold(config: AuditConfig, tests: int) -> float:
    """The z that one of a finder's tests exceeds, without anything planted, with the stated rate (Bonferroni)."""
    return float(norm.isf(config.false_alarm / max(1, tests)))


def _fitted(states: Matrix, labels: Ints, penalty: float) -> Classifier:
    """A logistic regression; where there is one label only, that is its answer."""
    several = len(np.unique(labels)) > 1
    return (LogisticRegression(C=penalty, max_iter=300) if several else DummyClassifier()).fit(states, labels)


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
    low, high = innocent, 12.0
    if expit(base + low).sum() >= wanted:
        return 0.0
    for _ in range(40):  # bisection: the expected count rises with the shift
        middle = (low + high) / 2
        low, high = (middle, high) if expit(base + middle).sum() < wanted else (low, middle)

    def log_likelihood(shift: float) -> float:
        return float((given * (base + shift) - np.logaddexp(0, base + shift)).sum())

    return float(np.sqrt(max(0.0, 2 * (log_likelihood(high) - log_likelihood(innocent)))))


def two_sample_auc(states: Matrix, others: Matrix) -> tuple[float, float]:
    """How well a regression that has seen all but one separates each of some states from others.

    A classifier two-sample test (Lopez-Paz & Oquab, arXiv 1610.06545), by ridge regression and its leverages.

    Args:
        states: Shape (texts, axes).
        others: Likewise.

    Returns:
        The AUC, 0.5 at least, and its standard error where nothing separates them (Mann & Whitney).
    """
    n, m = len(states), len(others)
    x: Floats = np.concatenate([states, others]).astype(np.float64)
    x = np.concatenate([x, np.ones((n + m, 1)) * 3], 1)  # the penalty hardly touches the intercept
    side, weight = np.repeat([1.0, -1.0], [n, m]), np.repeat([0.5 / n, 0.5 / m], [n, m]) * (n + m)
    gram = (x * weight[:, None]).T @ x + AUC_RIDGE * np.eye(x.shape[1])
    solved = np.linalg.solve(gram, (x * weight[:, None]).T)
    leverage = np.einsum("ij,ji->i", x, solved)
    left_out = (x @ (solved @ side) - leverage * side) / (1 - np.minimum(leverage, 0.99))
    auc = (rankdata(left_out)[:n].sum() - n * (n + 1) / 2) / (n * m)
    return max(0.5, float(auc)), float(np.sqrt((n + m + 1) / (12 * n * m)))
