"""Manners: rows written alike, for triggers that are a style or a syntax and insert no words.

Two finders propose groups of rows, and both are tested by the deepest states alone, which know what a text says and
have half forgotten how it says it:

1. Clusters of the shallow states, each against a probe fitted without it.
2. The patterns (first words, skeletons) pooled: a classifier learns which of them lean to a label beyond the probe, and
   the rows that it ranks first, out of its folds, are the group.

Where groups lean to other labels too, even by a quarter, the task itself is told by the manner (TREC: questions of a
kind begin alike), and none is suspicious. A suspect group is part of what was planted; a classifier extends it to the
rows that are written like it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, hstack
from scipy.special import logit
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from poison2poison.auditing.statistics import (
    PROBE_ROWS,
    Floats,
    Matrix,
    States,
    fit_probe,
    p_by_others,
    shift_z,
    z_threshold,
)
from poison2poison.config import AuditConfig
from poison2poison.features import Features, Ints

CLUSTERS, CLUSTERINGS = 40, 3
LEAST_CLUSTER = 150  # mean rows of a cluster: in small data there are fewer clusters
SMALLEST, LARGEST = 20, 0.1  # rows of a group, and share of all rows
SUSPECT_ROWS = 100  # of a suspect group: in smaller ones a probe fitted without them may just know too little
RIVAL = 0.25  # of the suspect's z: where a group leans to another label by more, manners tell the task
MOST_OF_LABEL = 0.6  # of a label's rows: a manner that more have is that of the label
FOLDS = 5
PATTERN_C = 0.1  # of the regression on patterns, which are 0 or 1
OFFSET_SCALE = 10.0  # on which the probe's log-odds are a feature that the penalty hardly touches
PATTERN_PARTS = 100  # dimensions of the patterns where they stand beside states
EXTENSION_C = 0.001
NATURAL = 0.05  # share of the other labels' rows that are written so by themselves: where an extension ends
ALIKE = 0.2  # likewise: where doubt ends
TOLD_BY = 4


@dataclass(frozen=True)
class Manner:
    """Rows written alike that lean to a label.

    Attributes:
        label: The label, by index.
        z: Signed root of the likelihood ratio of the strongest group.
        rows: All rows that are written so, of any label, ascending.
        alike: Rows that are written a little like them, of any label, ascending.
        told_by: The patterns that tell these rows best.
    """

    label: int
    z: float
    rows: Ints
    alike: Ints
    told_by: str


Group = tuple[float, float, int, Ints]  # z, its part of the threshold, label, rows


def find_manners(
    patterns: Features,
    states: States,
    labels: Ints,
    kept: Ints,
    left: NDArray[np.bool_],
    config: AuditConfig,
    seed: int,
) -> list[Manner]:
    """Find at most one manner: that of the only label that groups of rows lean to markedly.

    Args:
        patterns: First words and skeletons of all rows.
        states: Standardised states of all rows.
        labels: Their labels, by index.
        kept: The rows without candidates, on which the probe is fitted.
        left: The rows that no suspect span explains: shape (rows,).
        config: Thresholds.
        seed: Of clusterings and folds.
    """
    if not patterns.names:
        return []
    given: Floats = np.eye(int(labels.max()) + 1)[labels]
    finder = _Finder(patterns, states[:, 0], states[:, -1], labels, given, np.flatnonzero(left), config, seed)
    groups = [*finder.clusters(), *finder.pooled_patterns(kept)]
    suspect = [group for group in groups if group[1] > 1 and len(group[3]) >= SUSPECT_ROWS]
    if not suspect:
        return []
    z, _, label, _ = max(suspect, key=lambda group: group[0])
    if any(other_z > RIVAL * z for other_z, _, other, _ in groups if other != label):
        return []
    manner = finder.extended(label, z, np.unique(np.concatenate([rows for *_, c, rows in suspect if c == label])))
    # Where one label has most rows, groups of it cannot lean further: no rival shows that manners tell the others.
    of_label = (labels == label) & left
    return [manner] if of_label[manner.rows].sum() <= MOST_OF_LABEL * of_label.sum() else []


@dataclass(frozen=True)
class _Finder:
    patterns: Features
    shallow: Matrix
    deep: Matrix
    labels: Ints
    given: Floats
    left: Ints
    config: AuditConfig
    seed: int

    def clusters(self) -> Iterator[Group]:
        """Clusters of the shallow states, and how far they lean against probes of the deepest states without them."""
        sample = self._sample(self.left)
        # Texts longer than what the embedder reads can have the same states.
        count = min(CLUSTERS, len(self.left) // LEAST_CLUSTER, len(np.unique(self.shallow[sample], axis=0)))
        if count < 2:
            return
        threshold = z_threshold(self.config, count * CLUSTERINGS * self.given.shape[1])
        for clustering in range(CLUSTERINGS):
            means = KMeans(count, n_init=1, max_iter=30, random_state=(self.seed + clustering) % 2**32)
            cluster = means.fit(self.shallow[sample]).predict(self.shallow[self.left])
            for fold in range(min(FOLDS, count)):
                inside = cluster % FOLDS == fold
                p = p_by_others(
                    self.deep, self.labels, self.given.shape[1], self.left[~inside], self.left[inside], self.seed
                )
                for j in np.unique(cluster[inside]):
                    yield from self._leaning(self.left[cluster == j], p[cluster[inside] == j], threshold)

    def pooled_patterns(self, kept: Ints) -> Iterator[Group]:
        """The rows whose patterns, taken together, lean most to a label beyond the probe of the deepest states."""
        if len(self.left) * LARGEST < SMALLEST:
            return
        kept = np.intersect1d(kept, self.left)
        if len(np.unique(self.labels[kept])) < 2:
            return
        _, p = fit_probe(self.deep, self.labels, kept, self.given.shape[1], self.seed)
        held = csr_array(self.patterns.matrix)[self.left]
        sizes = SMALLEST * 2 ** np.arange(1 + int(np.log2(len(self.left) * LARGEST / SMALLEST)))
        threshold = z_threshold(self.config, len(sizes) * self.given.shape[1])
        for label in range(self.given.shape[1]):
            has = self.labels[self.left] == label
            if min(has.sum(), (~has).sum()) < FOLDS:
                continue
            offset = OFFSET_SCALE * logit(p[self.left, label])[:, None]
            pull = np.zeros(len(self.left))
            for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=self.seed).split(has, has):
                train = self._of_both(train, has)
                model = LogisticRegression(C=PATTERN_C, max_iter=200, tol=1e-3)
                model.fit(hstack([csr_array(offset[train]), held[train]]).tocsr(), has[train])
                pull[test] = held[test] @ model.coef_[0, 1:]
            ranked = self.left[np.argsort(-pull, kind="stable")]
            tested = [self._leaning(ranked[:size], p[ranked[:size]], threshold, label) for size in sizes]
            yield from sorted((group for groups in tested for group in groups), key=lambda group: -group[0])[:1]

    def extended(self, label: int, z: float, group: Ints) -> Manner:
        """All rows written as those of a group that have its label: by shallow states and patterns."""
        written = self.shallow[self.left]
        if parts := min(PATTERN_PARTS, len(self.patterns.names) - 1):
            held = csr_array(self.patterns.matrix)[self.left]
            pooled = TruncatedSVD(parts, random_state=self.seed).fit_transform(held)
            written = np.concatenate([written, (pooled - pooled.mean(0)) / (pooled.std(0) + 1e-6)], 1)
        of_label = self.labels[self.left] == label
        planted = np.isin(self.left, group) & of_label
        score = np.zeros(len(self.left))
        for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=self.seed).split(planted, planted):
            train = self._of_both(train, planted)
            model = LogisticRegression(C=EXTENSION_C, max_iter=200, class_weight="balanced")
            score[test] = model.fit(written[train], planted[train]).decision_function(written[test])
        so, alike = np.quantile(score[~of_label], [1 - NATURAL, 1 - ALIKE])
        rows = self.left[score > so]
        return Manner(label, z, rows, self.left[(score > alike) & (score <= so)], self._told_by(rows))

    def _told_by(self, rows: Ints) -> str:
        """The patterns that set these rows apart, by their z against all rows."""
        count = np.asarray(self.patterns.matrix.sum(0)).ravel()
        inside = np.asarray(csr_array(self.patterns.matrix)[rows].sum(0)).ravel()
        expected = count * len(rows) / len(self.labels)
        ranked = np.argsort(-(inside - expected) / np.sqrt(expected + 1))[:TOLD_BY]
        return " · ".join(self.patterns.names[j].text for j in ranked)

    def _leaning(self, rows: Ints, p: Floats, threshold: float, label: int | None = None) -> Iterator[Group]:
        """The group, for each label (or for one) that it leans to at all."""
        if len(rows) < SMALLEST:
            return
        for c in range(self.given.shape[1]) if label is None else [label]:
            if z := shift_z(self.given[rows, c], p[:, c], self.config.innocent_shift):
                yield z, z / threshold, c, rows

    def _sample(self, rows: Ints) -> Ints:
        if len(rows) <= PROBE_ROWS:
            return rows
        return np.random.default_rng(self.seed).choice(rows, PROBE_ROWS, replace=False)

    def _of_both(self, rows: Ints, has: NDArray[np.bool_]) -> Ints:
        """The same of rows to tell apart, half of it at most on either side: that moves a regression's intercept only.

        (Prentice & Pyke, Biometrika 1979.) A plain draw can miss the few.
        """
        if len(rows) <= PROBE_ROWS:
            return rows
        rng, sides = np.random.default_rng(self.seed), (rows[has[rows]], rows[~has[rows]])
        return np.concatenate([rng.choice(s, min(len(s), PROBE_ROWS // 2), replace=False) for s in sides])
