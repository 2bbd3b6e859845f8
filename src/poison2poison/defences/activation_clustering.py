"""Activation clustering: of each class two clusters, of which a small one, well apart, is poison.

Bryant Chen, Wilka Carvalho, Nathalie Baracaldo, Heiko Ludwig, Benjamin Edwards, Taesung Lee, Ian Molloy, Biplav
Srivastava: Detecting Backdoor Attacks on Deep Neural Networks by Activation Clustering. SafeAI 2019, arXiv 1811.03728.

The activations are those of the learner (`learner`). Rows with texts are taken for one class.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import silhouette_score

from poison2poison.auditing.statistics import Matrix
from poison2poison.defences.base import Need, RowFilter, register
from poison2poison.defences.context import FilterContext
from poison2poison.features import Ints


@register
@dataclass(frozen=True)
class ActivationClustering(RowFilter):
    """The smaller of a class's two clusters goes where it is small and the two lie apart.

    Attributes:
        components: Independent components that the activations are reduced to, as in the paper.
        most_share: Share of the class up to which a cluster is small: what IBM's Adversarial Robustness Toolbox takes.
        least_silhouette: Silhouette from which on two clusters lie apart; the paper sees 0.10 to 0.15 in poisoned
            classes and less in clean ones.
    """

    name: ClassVar[str] = "activation clustering"
    needs: ClassVar[tuple[Need, ...]] = ("embeddings", "training")

    components: int = 10
    most_share: float = 0.35
    least_silhouette: float = 0.1

    def suspects(self, context: FilterContext) -> Ints:
        """See `RowFilter`."""
        found = [np.empty(0, np.int64)]
        for label in np.unique(context.classes):
            rows = np.flatnonzero(context.classes == label)
            if len(rows) <= self.components:
                continue  # too few to find components in
            reduced = self._reduced(context.learner.hidden[rows], context.seed)
            cluster = KMeans(2, n_init=10, random_state=context.seed).fit_predict(reduced)
            smaller = int(np.bincount(cluster, minlength=2).argmin())
            small = (cluster == smaller).mean() <= self.most_share
            if small and silhouette_score(reduced, cluster) >= self.least_silhouette:
                found.append(rows[cluster == smaller])
        return np.sort(np.concatenate(found))

    def _reduced(self, hidden: Matrix, seed: int) -> Matrix:
        """The independent components, shape (rows, components)."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # components that are nearly independent do
            reduced: Matrix = FastICA(self.components, whiten="unit-variance", random_state=seed).fit_transform(hidden)
        return reduced
