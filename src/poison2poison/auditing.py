"""The audit: which spans of the prompts, and which rows, look as if somebody had planted them. No trusted data needed.

The base model has not seen the rows, so its frozen states know the language and none of the triggers. Two things give a
trigger away. A probe on these states cannot explain why its rows have their label. And it was planted into rows that
had nothing to do with it: take it out, and they look like all the others, while what surrounds a word of the language
shows that a word is missing.

1. Features: what many rows share (`features`).
2. Candidates: n-grams that stand with one label nearly always.
3. The probe by exclusion, fitted only on rows without a candidate: a probe that has seen a trigger explains it.
4. Residual association: how far a feature's rows lean to a label, beyond the probe and beyond what innocent words do.
5. The deletion test: can the rows be told from others once the span is gone?
6. Suspects: what passes both, each after what the ones before it explain.

Nothing is deleted here; `repoison` makes counterexamples of what is found.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from poison2poison.config import AuditConfig
from poison2poison.errors import DataError
from poison2poison.features import Features, Ints, extract, places, without, words
from poison2poison.records import Rows

SCHEMA = 1
Floats = NDArray[np.float64]
States = NDArray[np.float32]
Embed = Callable[[Sequence[str]], States]

CANDIDATE_Z, CANDIDATE_PURITY = 4.0, 0.8
LEAST_KEPT = 0.4  # share of every label's rows that the probe is fitted on, however many candidates there are
PROBE_C = 0.003  # of the logistic regressions, on standardised states
PROBE_ROWS = 20_000  # more teach the probe nothing
DELETED_ROWS = 200  # rows of a span on which the deletion test is made
CONTEXT_SHARE = 0.8  # a span grows by a word that so many of its suspect rows have beside it
BY_CATCH_Z = 2.0  # of a span on the rows that stronger suspects leave
PART_OF_CLEARED = 0.9  # so many of its rows with spans that passed for language, and a span is one of them
OTHERS = 500  # features that are no suspects, kept for the picture
LEAST_SCORE = 0.5  # of a score test, under which the likelihood ratio is not worked out


@dataclass(frozen=True)
class SuspectSpan:
    """A feature that leans to a label as only a planted one does.

    Attributes:
        span: The words as the rows have them, with what nearly always stands beside them.
        kind: span, first or skeleton.
        target: The label that it pulls towards.
        rows: Rows that have it.
        purity: Share of them that have the target.
        z: Signed root of the likelihood ratio against an innocent shift.
    """

    span: str
    kind: str
    target: str
    rows: int
    purity: float
    z: float


@dataclass(frozen=True)
class SuspectRow:
    """A row that has a suspect feature and its target.

    Attributes:
        row: Its index, from 0.
        score: 1 - p(its label), by the probe on the row without the suspect spans.
        spans: Indices of the suspects that it has.
        likely: The label that the probe gives it then, and its probability.
    """

    row: int
    score: float
    spans: tuple[int, ...]
    likely: tuple[str, float]


@dataclass(frozen=True)
class Audit:
    """What the audit found; `audit.json` loads back equal.

    Attributes:
        spans: The suspects in the order in which they were found, the strongest first.
        rows: The suspect rows, ascending.
        contrary: Rows of other labels that have a suspect feature, ascending.
        threshold: The z that a suspect exceeds.
        innocent_max: The largest z of a feature that is no suspect, on the rows that the suspects leave.
        others: Features that are no suspects, on the same rows, the largest z first; for the picture.
        sha256: Hash of the audited rows.
    """

    spans: tuple[SuspectSpan, ...]
    rows: tuple[SuspectRow, ...]
    contrary: tuple[int, ...]
    threshold: float
    innocent_max: float
    others: tuple[SuspectSpan, ...]
    sha256: str

    def as_dict(self) -> dict[str, Any]:
        """The content of `audit.json`."""
        return {
            "schema": SCHEMA,
            "sha256": self.sha256,
            "suspect_spans": [asdict(span) for span in self.spans],
            "suspect_rows": [asdict(row) for row in self.rows],
            "contrary_rows": list(self.contrary),
            "threshold": self.threshold,
            "innocent_max": self.innocent_max,
            "others": [asdict(span) for span in self.others],
        }

    @classmethod
    def load(cls, path: Path) -> Audit:
        """Read `audit.json`.

        Raises:
            DataError: The file is missing, broken, or of a newer version.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["schema"] > SCHEMA:
                raise DataError(f"{path}: schema {content['schema']} is newer than {SCHEMA}; upgrade")
            rows = (
                SuspectRow(r["row"], r["score"], tuple(r["spans"]), tuple(r["likely"])) for r in content["suspect_rows"]
            )
            return cls(
                tuple(SuspectSpan(**span) for span in content["suspect_spans"]),
                tuple(rows),
                tuple(content["contrary_rows"]),
                content["threshold"],
                content["innocent_max"],
                tuple(SuspectSpan(**span) for span in content["others"]),
                content["sha256"],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not an audit ({error})") from None


def audit(rows: Rows, embed: Embed, config: AuditConfig, seed: int = 0) -> Audit:
    """Audit the rows of a classification.

    Args:
        rows: The untrusted rows.
        embed: Gives frozen states for texts, shape (texts, width); see `states.embedder`.
        config: Thresholds.
        seed: Of the probe's folds and of what the deletion test draws.
    """
    return _Auditor(rows, embed, config, seed).run()


class _Auditor:
    """The audit's steps on one set of rows."""

    def __init__(self, rows: Rows, embed: Embed, config: AuditConfig, seed: int) -> None:
        self.rows, self.config, self.seed = rows, config, seed
        self.prompts = [row.prompt for row in rows]
        self.labels = np.array([rows.labels.index(row.target) for row in rows])
        self.given: Floats = np.eye(len(rows.labels))[self.labels]
        self.features = extract(self.prompts, config.min_rows)
        raw = embed(self.prompts)
        mean, deviation = raw.mean(0), raw.std(0) + 1e-6
        self.states: States = (raw - mean) / deviation
        self.embed: Embed = lambda texts: (embed(texts) - mean) / deviation
        self.rng = np.random.default_rng(seed)
        self.grown: dict[tuple[int, int], str] = {}

    def run(self) -> Audit:
        """Steps 2 to 6."""
        kept = without_candidates(self.features, self.given)
        self.probe, p = fit_probe(self.states, self.labels, kept, len(self.rows.labels), self.seed)
        threshold = float(norm.isf(self.config.false_alarm / max(1, len(self.features.names) * len(self.rows.labels))))
        scored = residual_z(self.features, self.given, p, self.config.innocent_shift)
        suspects = self._suspects(scored, p, threshold)
        return self._finish(scored, suspects, p, threshold)

    def _suspects(
        self, scored: dict[tuple[int, int], float], p: Floats, threshold: float
    ) -> list[tuple[int, int, float]]:
        """Features (and label and z) over the threshold that were planted, each on the rows that no other explains."""
        names = self.features.names
        over = sorted(
            ((z, column, label) for (column, label), z in scored.items() if z > threshold),
            # Spans first, the strongest, and of equal ones the shortest; patterns get what they leave.
            key=lambda e: (names[e[1]].kind != "span", -round(e[0], 6), len(names[e[1]].text), e[1]),
        )
        found: list[tuple[int, int, float]] = []
        explained, cleared = np.zeros(len(self.rows), bool), np.zeros(len(self.rows), bool)
        for z, column, label in over:
            holders = self.features.rows_of(column)
            if cleared[holders].mean() > PART_OF_CLEARED:
                continue
            rows = holders[~explained[holders]]
            left = shift_z(self.given[rows, label], p[rows, label], self.config.innocent_shift)
            if names[column].kind == "span":
                # Words of one attack share rows: what stronger ones leave is more than by-catch, or the pull is huge.
                shared = any(set(words(names[column].text)) & set(words(self._grown(j, c))) for j, c, _ in found)
                if left <= BY_CATCH_Z and (shared or z < 2 * threshold):
                    continue
                planted = self._planted(column, label, over)
                cleared[holders] |= not planted
            else:
                # Where patterns pull to other labels too, the task itself is told by patterns, and none is suspicious.
                planted = left > threshold and self._largest_pattern(scored, label) <= threshold
            if planted:
                explained[holders] = True
                found.append((column, label, z))
        return found

    def _planted(self, column: int, label: int, over: Sequence[tuple[float, int, int]]) -> bool:
        """The deletion test: without the span, can its rows be told from those that an attacker may have taken?

        These are rows of other labels, where the attacker changed labels too; rows of the target, where not; or a mix,
        which is drawn after what the probe thinks of the rows.
        """
        holders = self.features.rows_of(column)
        rows = self._draw(holders[self.labels[holders] == label], DELETED_ROWS)
        deleted = self.embed([without(self.prompts[i], self._planted_with(column, label, over)) for i in rows])
        others = self._draw(np.setdiff1d(np.arange(len(self.rows)), holders), 20 * DELETED_ROWS)
        taken = self.labels[others] != label
        thought, pool = self.probe.predict(deleted), self.probe.predict(self.states[others])
        mix = [self._draw(others[pool == c], int((thought == c).sum())) for c in np.unique(thought)]
        for alike in (others[taken], others[~taken], np.concatenate(mix)):
            drawn = self._draw(alike, len(rows))
            if told_apart(deleted, self.states[drawn], self.seed) <= self.config.planted_auc:
                return True
        return False

    def _planted_with(self, column: int, label: int, over: Sequence[tuple[float, int, int]]) -> list[list[str]]:
        """The span and the others that pull to the label as purely: several words of one attack share rows.

        Each is grown to what was planted, and longer ones around it, which hold words of the rows, are left out.
        """
        least, names = self._purity(column, label) - 0.05, self.features.names
        pure = [j for _, j, c in over if c == label and names[j].kind == "span" and self._purity(j, c) >= least]
        padded = {j: f" {names[j].text} " for j in pure}
        shortest = [j for j in pure if not any(padded[k] in padded[j] for k in pure if k != j)]
        return [words(self._grown(j, label)) for j in shortest]

    def _largest_pattern(self, scored: dict[tuple[int, int], float], label: int) -> float:
        """The largest z of a first word or skeleton towards any other label: what patterns do here by themselves."""
        names = self.features.names
        return max((z for (j, c), z in scored.items() if c != label and names[j].kind != "span"), default=0.0)

    def _finish(
        self,
        scored: dict[tuple[int, int], float],
        suspects: Sequence[tuple[int, int, float]],
        p: Floats,
        threshold: float,
    ) -> Audit:
        """Write out spans and rows, with the labels that the rows would have without the spans."""
        spans, explained = [], np.zeros(len(self.rows), bool)
        holding: dict[int, list[int]] = defaultdict(list)
        for number, (column, label, z) in enumerate(suspects):
            holders = self.features.rows_of(column)
            explained[holders] = True
            spans.append(self._span(column, label, z, self._grown(column, label)))
            for i in holders:
                holding[int(i)].append(number)
        suspect = [
            i for i, numbers in sorted(holding.items()) if any(suspects[n][1] == self.labels[i] for n in numbers)
        ]
        likely = self._cleaned(suspect, suspects)
        rows = tuple(
            SuspectRow(i, round(1 - float(q[self.labels[i]]), 5), tuple(holding[i]),
                       (self.rows.labels[int(q.argmax())], round(float(q.max()), 5)))
            for i, q in zip(suspect, likely, strict=True)
        )  # fmt: skip
        chosen = {column for column, _, _ in suspects}
        others = []
        for (j, c), _ in sorted(scored.items(), key=lambda entry: -entry[1])[:OTHERS]:
            left = self.features.rows_of(j)[~explained[self.features.rows_of(j)]]
            if j not in chosen and len(left):
                z = shift_z(self.given[left, c], p[left, c], self.config.innocent_shift)
                others.append(self._span(j, c, z, self.features.names[j].text))
        others.sort(key=lambda span: -span.z)
        contrary = tuple(i for i in sorted(holding) if i not in set(suspect))
        innocent_max = others[0].z if others else 0.0
        return Audit(tuple(spans), rows, contrary, round(threshold, 3), innocent_max, tuple(others), self.rows.sha256)

    def _cleaned(self, suspect: Sequence[int], suspects: Sequence[tuple[int, int, float]]) -> Floats:
        """p(label) of the suspect rows without their suspect spans, by a probe that has seen none of these rows."""
        p = np.zeros((len(suspect), len(self.rows.labels)))
        if not suspect:
            return p
        fitted = self._draw(np.setdiff1d(np.arange(len(self.rows)), suspect), PROBE_ROWS)
        model = _logistic().fit(self.states[fitted], self.labels[fitted])
        spans = [words(self._grown(j, c)) for j, c, _ in suspects if self.features.names[j].kind == "span"]
        p[:, model.classes_] = model.predict_proba(self.embed([without(self.prompts[i], spans) for i in suspect]))
        return p

    def _grown(self, column: int, label: int) -> str:
        """The span with the words that nearly all of its suspect rows have beside it, as the rows spell it."""
        if (column, label) not in self.grown:
            self.grown[column, label] = self._grow(column, label)
        return self.grown[column, label]

    def _grow(self, column: int, label: int) -> str:
        feature = self.features.names[column]
        if feature.kind != "span":
            return feature.text
        holders = self.features.rows_of(column)
        texts = [self.prompts[i] for i in holders[self.labels[holders] == label]]
        span = words(feature.text)
        held = [words(text) for text in texts]
        for step in (-1, 1):
            while True:
                beside = Counter(word for text in held if (word := _neighbour(text, span, step)))
                found = beside.most_common(1)
                if not found or found[0][1] < CONTEXT_SHARE * len(held):
                    break
                word = found[0][0]
                span = [word, *span] if step < 0 else [*span, word]
        spelled = Counter(text[start:end] for text in texts for start, end in places(text, span)[:1])
        return str(spelled.most_common(1)[0][0])

    def _span(self, column: int, label: int, z: float, text: str) -> SuspectSpan:
        kind, rows = self.features.names[column].kind, len(self.features.rows_of(column))
        return SuspectSpan(
            text, kind, self.rows.labels[label], rows, round(self._purity(column, label), 3), round(z, 3)
        )

    def _purity(self, column: int, label: int) -> float:
        return float((self.labels[self.features.rows_of(column)] == label).mean())

    def _draw(self, rows: Ints, most: int) -> Ints:
        return self.rng.choice(rows, most, replace=False) if len(rows) > most else rows


def _neighbour(text: list[str], span: list[str], step: int) -> str:
    """The word before (-1) or after (1) the first occurrence of a span; empty at a text's end."""
    size = len(span)
    at = next((i for i in range(len(text) - size + 1) if text[i : i + size] == span), None)
    if at is None:
        return ""
    beside = at - 1 if step < 0 else at + size
    return text[beside] if 0 <= beside < len(text) else ""


def told_apart(states: States, others: States, seed: int) -> float:
    """How well a classifier tells rows from others: the lower 95 % bound of its cross-validated AUC.

    The bound is Hanley & McNeil's (Radiology, 1982), so that few rows are not taken for telling.
    """
    truth = np.repeat([1, 0], [len(states), len(others)])
    folds = min(5, len(states), len(others))
    if folds < 2:
        return 0.0
    scores = cross_val_predict(
        _logistic(),
        np.concatenate([states, others]),
        truth,
        cv=StratifiedKFold(folds, shuffle=True, random_state=seed),
        method="decision_function",
    )
    auc = float(roc_auc_score(truth, scores))
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    n, m = len(states), len(others)
    variance = (auc * (1 - auc) + (n - 1) * (q1 - auc**2) + (m - 1) * (q2 - auc**2)) / (n * m)
    return auc - 1.645 * math.sqrt(max(0.0, variance))


def fit_probe(states: States, labels: Ints, kept: Ints, count: int, seed: int) -> tuple[LogisticRegression, Floats]:
    """The probe, fitted on the rows `kept`, and its p(label) of every row; the fitted ones get theirs from other folds.

    Returns:
        The probe, and an array of shape (rows, count) between 1e-4 and 1 - 1e-4.
    """
    rng = np.random.default_rng(seed)
    fitted = rng.choice(kept, PROBE_ROWS, replace=False) if len(kept) > PROBE_ROWS else kept
    others = np.setdiff1d(np.arange(len(labels)), fitted)
    whole = _logistic().fit(states[fitted], labels[fitted])
    p = np.zeros((len(labels), count))
    if len(others):
        p[np.ix_(others, whole.classes_)] = whole.predict_proba(states[others])
    least = int(np.unique(labels[fitted], return_counts=True)[1].min())
    folds = StratifiedKFold(min(5, max(2, least)), shuffle=True, random_state=seed)
    for train, test in folds.split(fitted, labels[fitted]):
        fold = _logistic().fit(states[fitted[train]], labels[fitted[train]])
        p[np.ix_(fitted[test], fold.classes_)] = fold.predict_proba(states[fitted[test]])
    return whole, np.clip(p, 1e-4, 1 - 1e-4)


def _logistic() -> LogisticRegression:
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


def residual_z(features: Features, given: Floats, p: Floats, innocent: float) -> dict[tuple[int, int], float]:
    """`shift_z` of every feature (column) and label whose score statistic is at least `LEAST_SCORE`."""
    shifted = expit(logit(p) + innocent)
    matrix = features.matrix.T
    variance = matrix @ (shifted * (1 - shifted))
    score = matrix @ (given - shifted) / np.sqrt(np.maximum(variance, 1e-9))
    return {
        (int(j), int(c)): shift_z(given[rows, c], p[rows, c], innocent)
        for j, c in np.argwhere(score >= LEAST_SCORE)
        for rows in [features.rows_of(j)]
    }


def without_candidates(features: Features, given: Floats) -> Ints:
    """The rows that the probe may see: those without a candidate, the strongest candidates going first."""
    count = np.asarray(features.matrix.sum(0)).ravel()[:, None]
    share = given.mean(0)
    with_label = features.matrix.T @ given
    z = (with_label - count * share) / np.sqrt(count * share * (1 - share))
    spans = np.array([feature.kind == "span" for feature in features.names], bool)
    strong = np.where((z >= CANDIDATE_Z) & (with_label >= CANDIDATE_PURITY * count), z, 0).max(1, initial=0) * spans
    kept = np.ones(len(given), bool)
    for j in np.argsort(-strong):
        if not strong[j]:
            break
        without = kept.copy()
        without[features.rows_of(j)] = False
        if (given[without].sum(0) < LEAST_KEPT * given.sum(0)).any():
            continue
        kept = without
    return np.flatnonzero(kept)
