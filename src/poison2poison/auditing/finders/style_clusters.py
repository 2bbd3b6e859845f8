"""Style clusters: rows written alike, for triggers that are a style or a syntax and insert no words.

Two searches propose groups of rows, and both are tested by the deepest states alone, which know what a text says and
have half forgotten how it says it:

1. Clusters of the shallow states, each against a probe fitted without it.
2. The patterns (first words, skeletons) pooled: a classifier learns which of them lean to a label beyond the probe, and
   the rows that it ranks first, out of its folds, are the group.

Where groups lean to other labels too, even by a quarter, the task itself is told by the style (TREC: questions of a
kind begin alike), and none is suspicious. A suspect group is part of what was planted; a classifier extends it to the
rows that are written like it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, hstack
from scipy.special import logit
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from poison2poison.auditing.answers import Answers, LabelAnswers
from poison2poison.auditing.context import Context
from poison2poison.auditing.finders.base import FINDERS, Finder, Finding
from poison2poison.auditing.statistics import Floats, Probe, blocks, drawn, shift_z, z_threshold
from poison2poison.config import AuditConfig, over_zero
from poison2poison.features import Ints


class Group(NamedTuple):
    """Rows that lean to a label.

    Attributes:
        z: Signed root of the likelihood ratio against the probe.
        threshold: The z that is enough.
        label: By index.
        rows: Of any label.
    """

    z: float
    threshold: float
    label: int
    rows: Ints


@FINDERS.register("style-clusters")
@dataclass(frozen=True)
class StyleClusters(Finder):
    """Finds at most one style: that of the only label that groups of rows lean to markedly.

    Attributes:
        innocent_shift: Log-odds by which an innocent style may lean to a label beyond the probe.
        clusters, clusterings: How many clusters, and how often they are drawn.
        least_cluster: Mean rows of a cluster: in small data there are fewer clusters.
        smallest, largest: Rows of a group, and its share of all rows.
        suspect_rows: Rows of a suspect group: in smaller ones a probe fitted without them may just know too little.
        rival: Of the suspect's z: where a group leans to another label by more, styles tell the task.
        most_of_label: Of a label's rows: a style that more have is that of the label.
        folds: Of the rows, each judged by what was fitted on the others.
        probe_c: Of the probe on the deepest states, which are standardised.
        pattern_c: Of the regression on patterns, which are 0 or 1.
        offset_scale: On which the probe's log-odds are a feature that its penalty hardly touches.
        extension_c: Of the regression that extends a group, on patterns and states of the same mean length.
        innocent_rows: Share of the suspect rows that may be innocent: where an extension ends.
        alike_rows: Likewise of those that are kept out of the safe space.
        probe_rows: Rows that a regression is fitted on at most. States are as wide as the model's here, so that more
            would not fit into memory.
        known_by: Patterns that a style is named by.
    """

    innocent_shift: float = 1.0
    clusters: int = 40
    clusterings: int = 3
    least_cluster: int = 150
    smallest: int = 20
    largest: float = 0.1
    suspect_rows: int = 100
    rival: float = 0.25
    most_of_label: float = 0.6
    folds: int = 5
    probe_c: float = 0.003
    pattern_c: float = 0.1
    offset_scale: float = 10.0
    extension_c: float = 0.1
    innocent_rows: float = 0.1
    alike_rows: float = 0.4
    probe_rows: int = 20_000
    known_by: int = 4

    def __post_init__(self) -> None:
        over_zero(self, shares=("largest", "rival", "most_of_label", "innocent_rows", "alike_rows"))

    def find(self, context: Context, answers: Answers, config: AuditConfig, found: Sequence[Finding]) -> list[Finding]:
        """The style, in the rows that no suspect explains; nothing where answers are texts."""
        if not isinstance(answers, LabelAnswers) or not context.patterns.names:
            return []
        explained = [i for one in found if one.suspect for i in one.rows]
        left = np.setdiff1d(np.arange(len(context.texts)), explained)
        return _Search(self, context, answers, left, config).run()


class _Search:
    """The search in the rows that are left."""

    def __init__(
        self, options: StyleClusters, context: Context, answers: LabelAnswers, left: Ints, config: AuditConfig
    ) -> None:
        self.options, self.patterns, self.seed = options, context.patterns, context.seed
        self.shallow, self.deep = context.shallow, context.deep
        self.names, self.labels, self.given = answers.names, answers.given, answers.has
        self.kept, self.left, self.config = np.flatnonzero(answers.kept), left, config
        self.probe = Probe(self.deep, self.labels, answers.directions, self.seed, options.probe_c, options.probe_rows)

    def run(self) -> list[Finding]:
        options = self.options
        groups = [*self.clusters(), *self.pooled_patterns()]
        suspect = [group for group in groups if group.z > group.threshold and len(group.rows) >= options.suspect_rows]
        if not suspect:
            return []
        strongest = max(suspect, key=lambda group: group.z)
        label, rival = strongest.label, options.rival * strongest.z
        if any(group.z > rival for group in groups if group.label != label):
            return []
        members = [group.rows for group in suspect if group.label == label]
        style = self.extended(strongest, np.unique(np.concatenate(members)))
        # Where one label has most rows, groups of it cannot lean further: no rival shows that styles tell the others.
        of_label = int((self.labels[self.left] == label).sum())
        return [style] if len(style.pulled) <= options.most_of_label * of_label else []

    def clusters(self) -> Iterator[Group]:
        """Clusters of the shallow states, and how far they lean against probes of the deepest states without them."""
        sample = drawn(self.left, self.options.probe_rows, np.random.default_rng(self.seed))
        # Texts longer than what the embedder reads can have the same states.
        different = len(np.unique(self.shallow[sample], axis=0))
        count = min(self.options.clusters, len(self.left) // self.options.least_cluster, different)
        if count < 2:
            return
        threshold = z_threshold(self.config.false_alarm, count * self.options.clusterings * self.probe.count)
        for clustering in range(self.options.clusterings):
            means = KMeans(count, n_init=1, max_iter=30, random_state=(self.seed + clustering) % 2**32)
            means.fit(self.shallow[sample])
            cluster = np.concatenate([means.predict(self.shallow[self.left[part]]) for part in blocks(len(self.left))])
            for fold in range(min(self.options.folds, count)):
                inside = cluster % self.options.folds == fold
                p = self.probe.by_others(self.left[~inside], self.deep[self.left[inside]])
                for j in np.unique(cluster[inside]):
                    rows, of_rows = self.left[cluster == j], p[cluster[inside] == j]
                    yield from self._leaning(rows, of_rows, threshold, range(self.probe.count))

    def pooled_patterns(self) -> Iterator[Group]:
        """The rows whose patterns, taken together, lean most to a label beyond the probe of the deepest states."""
        largest = len(self.left) * self.options.largest / self.options.smallest
        if largest < 1:
            return
        kept = np.intersect1d(self.kept, self.left)
        if len(np.unique(self.labels[kept])) < 2:
            return
        _, p = self.probe.cross_fitted(kept)
        held = csr_array(self.patterns.matrix)[self.left]
        sizes = self.options.smallest * 2 ** np.arange(1 + int(np.log2(largest)))
        threshold = z_threshold(self.config.false_alarm, len(sizes) * self.probe.count)
        for label in range(self.probe.count):
            has = self.labels[self.left] == label
            if min(has.sum(), (~has).sum()) < self.options.folds:
                continue
            offset = self.options.offset_scale * logit(p[self.left, label])[:, None]
            pull = np.zeros(len(self.left))
            for train, test in self._folds(has):
                model = LogisticRegression(C=self.options.pattern_c, max_iter=200, tol=1e-3)
                model.fit(hstack([csr_array(offset[train]), held[train]]).tocsr(), has[train])
                pull[test] = held[test] @ model.coef_[0, 1:]
            ranked = self.left[np.argsort(-pull, kind="stable")]
            first = (ranked[:size] for size in sizes)
            leaning = [group for rows in first for group in self._leaning(rows, p[rows], threshold, [label])]
            yield from sorted(leaning, key=lambda group: -group.z)[:1]

    def extended(self, strongest: Group, members: Ints) -> Finding:
        """All rows written as the members of groups that have the label: by patterns and shallow states."""
        parts, patterns = [*blocks(len(self.left))], csr_array(self.patterns.matrix)[self.left]
        size = sum((self.shallow[self.left[part]] ** 2).sum() for part in parts)
        scale = np.sqrt(patterns.sum() / size)

        def written(chosen: slice | Ints) -> csr_array:
            return hstack([patterns[chosen], csr_array(self.shallow[self.left[chosen]] * scale)]).tocsr()

        of_label = self.labels[self.left] == strongest.label
        planted = np.isin(self.left, members) & of_label
        score = np.zeros(len(self.left))
        for train, test in self._folds(planted):
            model = LogisticRegression(C=self.options.extension_c, max_iter=200, class_weight="balanced")
            model.fit(written(train), planted[train])
            for part in blocks(len(test)):
                score[test[part]] = model.decision_function(written(test[part]))

        so = score >= self._cut(score, of_label, self.options.innocent_rows)
        nearly = score >= self._cut(score, of_label, self.options.alike_rows)
        rows, pulled, alike = self.left[so], self.left[so & of_label], self.left[nearly & ~so]
        name, target = self._known_by(rows), str(self.names[strongest.label])
        z, threshold = strongest.z, strongest.threshold
        return Finding("style cluster", name, target, rows, pulled, z, True, threshold, alike=alike)

    def _folds(self, has: NDArray[np.bool_]) -> Iterator[tuple[Ints, Ints]]:
        """What to fit on, and what to judge by that."""
        for train, test in StratifiedKFold(self.options.folds, shuffle=True, random_state=self.seed).split(has, has):
            yield self._of_both(train, has), test

    def _cut(self, score: Floats, of_label: NDArray[np.bool_], innocent: float) -> float:
        """The lowest score from which at most this share of the label's rows is innocent.

        The other labels' rows show how many innocent rows score so (target and decoy: Elias & Gygi, 2007).
        """
        order = np.argsort(-score, kind="stable")
        pulled, decoys = np.cumsum(of_label[order]), np.cumsum(~of_label[order])
        estimated = decoys * (of_label.sum() / max(1, (~of_label).sum())) / np.maximum(1, pulled)
        enough = np.flatnonzero(estimated <= innocent)
        return float(score[order[enough[-1]]]) if len(enough) else np.inf

    def _known_by(self, rows: Ints) -> str:
        """The patterns that these rows are best known by, by their z against all rows."""
        inside = np.asarray(csr_array(self.patterns.matrix)[rows].sum(0)).ravel()
        expected = self.patterns.counts * len(rows) / len(self.labels)
        ranked = np.argsort(-(inside - expected) / np.sqrt(expected + 1))[: self.options.known_by]
        return " · ".join(self.patterns.names[j].text for j in ranked)

    def _leaning(self, rows: Ints, p: Floats, threshold: float, labels: Iterable[int]) -> Iterator[Group]:
        """The group, for each of the labels that it leans to at all."""
        if len(rows) < self.options.smallest:
            return
        for c in labels:
            if z := shift_z(self.given[rows, c], p[:, c], self.options.innocent_shift):
                yield Group(z, threshold, c, rows)

    def _of_both(self, rows: Ints, has: NDArray[np.bool_]) -> Ints:
        """The same of rows to separate, half of it at most on either side: that moves a regression's intercept only.

        (Prentice & Pyke, Biometrika 1979.) A plain draw can miss the few.
        """
        if len(rows) <= self.options.probe_rows:
            return rows
        rng, sides = np.random.default_rng(self.seed), (rows[has[rows]], rows[~has[rows]])
        return np.concatenate([rng.choice(s, min(len(s), self.options.probe_rows // 2), replace=False) for s in sides])
