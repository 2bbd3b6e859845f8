"""The statistics of the audit: a probe on frozen states, and how far labels go beyond it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import expit, logit
from scipy.stats import norm
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict

from poison2poison.config import AuditConfig
from poison2poison.features import Features, Ints, words

Floats = NDArray[np.float64]
Matrix = NDArray[np.float32]  # shape (rows, width)
States = NDArray[np.float32]  # shape (rows, depths, width), from shallow to deep
Classifier = Any  # of scikit-learn
Embed = Callable[[Sequence[str]], States]

CANDIDATE_Z = 3.0
PROBE_C = 0.003  # of the logistic regressions, on standardised states
PROBE_ROWS = 20_000  # more teach the probe nothing
LEAST_SCORE = 0.5  # of a score test, under which the likelihood ratio is not worked out
COMMON = 100  # rows of a span on which labels are asked whether they follow the text
INNOCENT_SET = 0.25  # share of a span's rows whose labels may go against the text, as "but" makes them
SET_ROWS = 2000  # of a span's rows, as many as say enough on that
SHIFTS, SHARES = 21, 20  # grid on which its likelihood is looked up


def told_apart(states: Matrix, others: Matrix, seed: int) -> float:
    """How well a classifier of states tells rows from others: the lower 95 % bound of its cross-validated AUC.

    Args:
        states: Of the rows, shape (rows, width).
        others: Of the others, shape (others, width).
        seed: Of the folds.
    """
    return _auc(logistic(), np.concatenate([states, others]), len(states), seed)


def told_apart_by_words(texts: Sequence[str], others: Sequence[str], seed: int) -> float:
    """The same by the words of the texts, for languages that the model does not know."""
    if not any(words(text) for text in (*texts, *others)):
        return 0.0
    bags = TfidfVectorizer(tokenizer=words, token_pattern=None, lowercase=False, sublinear_tf=True)
    return _auc(LogisticRegression(max_iter=300), bags.fit_transform([*texts, *others]), len(texts), seed)


def _auc(model: Classifier, features: Any, rows: int, seed: int) -> float:
    """The lower 95 % bound of the cross-validated AUC by which the first rows are told from the rest.

    The bound is Hanley & McNeil's (Radiology, 1982), so that few rows are not taken for telling.
    """
    n, m = rows, features.shape[0] - rows
    folds = min(5, n, m)
    if folds < 2:
        return 0.0
    truth = np.repeat([1, 0], [n, m])
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    auc = float(roc_auc_score(truth, cross_val_predict(model, features, truth, cv=split, method="decision_function")))
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = (auc * (1 - auc) + (n - 1) * (q1 - auc**2) + (m - 1) * (q2 - auc**2)) / (n * m)
    return auc - 1.645 * math.sqrt(max(0.0, variance))


def fit_probe(states: Matrix, labels: Ints, kept: Ints, count: int, seed: int) -> tuple[Classifier, Floats]:
    """The probe, fitted on the rows `kept`, and its p(label) of every row; the fitted ones get theirs from other folds.

    Returns:
        The probe, and an array of shape (rows, count) between 1e-4 and 1 - 1e-4.
    """
    rng = np.random.default_rng(seed)
    fitted = rng.choice(kept, PROBE_ROWS, replace=False) if len(kept) > PROBE_ROWS else kept
    whole = _fitted(states[fitted], labels[fitted])
    p = np.zeros((len(labels), count))
    p[:, whole.classes_] = whole.predict_proba(states)
    least = int(np.unique(labels[fitted], return_counts=True)[1].min())
    if len(fitted) > 1:
        # A label with one row cannot be in two folds.
        kind, most = (StratifiedKFold, least) if least > 1 else (KFold, len(fitted))
        folds = kind(min(5, most), shuffle=True, random_state=seed)
        for train, test in folds.split(fitted, labels[fitted]):
            fold = _fitted(states[fitted[train]], labels[fitted[train]])
            p[np.ix_(fitted[test], fold.classes_)] = fold.predict_proba(states[fitted[test]])
    return whole, np.clip(p, 1e-4, 1 - 1e-4)


def p_by_others(states: Matrix, labels: Ints, count: int, fitted: Ints, asked: Ints, seed: int = 0) -> Floats:
    """p(label) of some rows by a probe that is fitted on others, shape (asked, count), between 1e-4 and 1 - 1e-4.

    Where the others have one label only, that is their answer.
    """
    if len(fitted) > PROBE_ROWS:
        fitted = np.random.default_rng(seed).choice(fitted, PROBE_ROWS, replace=False)
    p = np.zeros((len(asked), count))
    model = _fitted(states[fitted], labels[fitted])
    p[:, model.classes_] = model.predict_proba(states[asked])
    return np.clip(p, 1e-4, 1 - 1e-4)


def z_threshold(config: AuditConfig, tests: int) -> float:
    """The z that one of a finder's tests exceeds, without anything planted, with the stated rate (Bonferroni)."""
    return float(norm.isf(config.false_alarm / max(1, tests)))


def _fitted(states: Matrix, labels: Ints) -> Classifier:
    """A logistic regression; where there is one label only, that is its answer."""
    model = logistic() if len(np.unique(labels)) > 1 else DummyClassifier()
    return model.fit(states, labels)


def logistic() -> LogisticRegression:
    """A logistic regression for standardised states."""
    return LogisticRegression(C=PROBE_C, max_iter=300)


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


def mixture_z(
    spans: Features, columns: Sequence[int], left: NDArray[np.bool_], given: Floats, p: Floats, innocent: float
) -> Floats:
    """How surely the label of a span's rows was set, in more than `INNOCENT_SET` of them, whatever their text says.

    A trigger's rows then have it with probability e + (1 - e) q, where q is the probe's p with its log-odds shifted by
    at most `innocent`. Rows that the attacker left alone lower e, and no shift can take its place: with e at 1 all rows
    have the label, below it the probe no longer tells which have it.

    Args:
        spans: The spans.
        columns: Which of them are asked for.
        left: The rows that are looked at, shape (rows,); of a span's at most `SET_ROWS`, spread over all.
        given: 1 where a row has a label, shape (rows, labels).
        p: The probe's probabilities, likewise.
        innocent: The shift that counts for nothing, in log-odds.

    Returns:
        Signed roots of the likelihood ratios between all e and those up to `INNOCENT_SET`, both on a grid: shape
        (columns, labels); 0 where fewer than `COMMON` rows are left.
    """
    held = [rows[left[rows]] for rows in map(spans.rows_of, columns)]
    # What stands in the same rows, as the parts of a phrase do, is asked once: sums of random numbers tell the rows.
    numbers = np.random.default_rng(0).integers(2**62, size=len(left))
    _, asked_once, same = np.unique([numbers[rows].sum() for rows in held], return_index=True, return_inverse=True)
    held = [held[at] for at in asked_once]
    held = [rows[np.linspace(0, len(rows) - 1, min(len(rows), SET_ROWS)).astype(int)] for rows in held]
    count = np.array([len(rows) for rows in held])
    asked, indices = np.unique(np.concatenate([np.empty(0, np.int64), *held]), return_inverse=True)
    ones = np.ones(len(indices), np.float32)
    matrix = csr_array((ones, indices, np.cumsum([0, *count])), shape=(len(held), len(asked)))
    shifts = np.linspace(-4, innocent, SHIFTS, dtype=np.float32)
    less, more = np.linspace(0, INNOCENT_SET, SHARES // 4), np.linspace(INNOCENT_SET, 0.98, SHARES)[1:]
    z = np.zeros((len(held), given.shape[1]))
    for c in range(given.shape[1]):
        has, base = given[asked, c] > 0, p[asked, c, None].astype(np.float32)
        shifted = logit(base) + shifts
        with_label, others = matrix[:, has], matrix[:, ~has]
        # Likelihoods over the probe's, shape (rows, shifts), with logarithms so small that float32 is enough. Of rows
        # without the label the share is a factor: the rest is worked out once.
        q, q_base = expit(shifted[has]), base[has]
        unlike, number = others @ np.log(expit(-shifted[~has]) / (1 - base[~has])), others.sum(1)[:, None]
        likely = (
            with_label @ np.log((e + (1 - e) * q) / q_base) + number * math.log(1 - e) + unlike
            for e in (*less.tolist(), *more.tolist())
        )
        best = np.array([of_shifts.max(1) for of_shifts in likely])
        z[:, c] = np.sqrt(2 * (best.max(0) - best[: len(less)].max(0)))
    z[count < COMMON] = 0
    found: Floats = z[same]
    return found


def residual_z(
    spans: Features, given: Floats, p: Floats, own: dict[int, Floats], innocent: float
) -> dict[tuple[int, int], float]:
    """`shift_z` of spans (by column) and labels, where it is not negligible.

    Args:
        spans: The spans.
        given: 1 where a row has a label, shape (rows, labels).
        p: The probe's probabilities, likewise.
        own: Of a candidate, those of its rows by a probe that has seen none of them (`own_p`).
        innocent: The shift that counts for nothing, in log-odds.
    """
    shifted = expit(logit(p) + innocent)
    matrix = spans.matrix.T
    variance = matrix @ (shifted * (1 - shifted))
    score = matrix @ (given - shifted) / np.sqrt(np.maximum(variance, 1e-9))
    score[list(own)] = LEAST_SCORE
    found = {}
    for j, c in np.argwhere(score >= LEAST_SCORE):
        rows = spans.rows_of(j)
        beside = own[int(j)] if int(j) in own else p[rows]
        found[int(j), int(c)] = shift_z(given[rows, c], beside[:, c], innocent)
    return found


def own_p(
    spans: Features,
    states: Matrix,
    labels: Ints,
    given: Floats,
    least_kept: Floats,
    purity: float,
    asked: Collection[int],
    hidden: NDArray[np.bool_],
) -> dict[int, Floats]:
    """For every candidate its rows' p(label), shape (its rows, labels), by a probe that has seen none of them.

    One probe serves many candidates: those of like purity, as the words of one attack are, go together, label
    by label, so that none of them explains another; as many as leave enough rows to learn from.

    Args:
        spans: The spans.
        states: Standardised, shape (rows, width).
        labels: The rows' labels, shape (rows,).
        given: 1 where a row has a label, shape (rows, labels).
        least_kept: Share of each label's rows that a probe is fitted on, however many candidates there are.
        purity: Share of a candidate's rows that have its label, at least.
        asked: Labels whose candidates are looked at.
        hidden: Rows that no probe sees, shape (rows,).
    """
    z, share = _association(spans, given, purity)
    label = np.where(z > 0, z, -1).argmax(1)
    count = np.asarray(spans.matrix.sum(0)).ravel()
    order = np.lexsort((count, -share[np.arange(len(label)), label].round(2), label))
    found: dict[int, Floats] = {}
    together: list[int] = []
    all_left = given[~hidden].sum(0)
    seen, left, least = ~hidden, all_left, least_kept * all_left

    def flush() -> None:
        held = np.flatnonzero(~seen)
        p = np.zeros(given.shape)
        p[held] = p_by_others(states, labels, given.shape[1], np.flatnonzero(seen), held)
        found.update({j: p[spans.rows_of(j)] for j in together})

    for j in [int(j) for j in order if z[j].max() > 0 and label[j] in asked]:
        rows = spans.rows_of(j)
        if together and (left - given[rows[seen[rows]]].sum(0) < least).any():
            flush()
            together, seen, left = [], ~hidden, all_left
        after = left - given[rows[seen[rows]]].sum(0)
        if (after >= least).all():
            seen[rows], left = False, after
            together.append(j)
    if together:
        flush()
    return found


def without_candidates(spans: Features, given: Floats, least_kept: Floats, purity: float) -> Ints:
    """The rows that the probe may see: those without a candidate, the strongest candidates going first."""
    strong = _association(spans, given, purity)[0].max(1, initial=0)
    kept, left = np.ones(len(given), bool), given.sum(0)
    least = least_kept * left
    for j in np.argsort(-strong)[: int((strong > 0).sum())]:
        rows = spans.rows_of(j)
        rows = rows[kept[rows]]
        lost = given[rows].sum(0)
        if (left - lost >= least).all():
            kept[rows] = False
            left = left - lost
    return np.flatnonzero(kept)


def _association(spans: Features, given: Floats, least: float) -> tuple[Floats, Floats]:
    """z of every span and label that make a candidate, 0 of others; and the purity: shape (spans, labels).

    A candidate is a span that nearly always stands with one label.
    """
    count = np.asarray(spans.matrix.sum(0)).ravel()[:, None]
    share = given.mean(0)
    with_label = spans.matrix.T @ given
    z = (with_label - count * share) / np.sqrt(
        np.maximum(count * share * (1 - share), 1e-9)
    )  # 0 of a label without rows
    purity = with_label / count
    return np.where((z >= CANDIDATE_Z) & (purity >= least), z, 0.0), purity
