"""CUBE: of each class the largest cluster by density stays.

Ganqu Cui, Lifan Yuan, Bingxiang He, Yangyi Chen, Zhiyuan Liu, Maosong Sun: A Unified Evaluation of Textual Backdoor
Learning: Frameworks and Benchmarks. NeurIPS 2022 Datasets and Benchmarks, arXiv 2206.08514.

The representations are those of the learner (`learner`), reduced by PCA where the paper takes UMAP, which is a package
of its own. Rows with texts are taken for one class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from sklearn.cluster import HDBSCAN
from sklearn.decomposition import PCA

from poison2poison.defences.base import Need, RowFilter, register
from poison2poison.defences.context import FilterContext
from poison2poison.features import Ints


@register
@dataclass(frozen=True)
class Cube(RowFilter):
    """All rows are clustered at once; of a class go the clusters that are not its largest, and the rows in none.

    Attributes:
        dimensions: That the representations are reduced to. UMAP does with two; PCA would lose too much.
        least_share: Share of all rows that a core point has around it, and a cluster in it. OpenBackdoor, the authors',
            takes 100 for the former (of SST-2's 6,920 rows), and 5 for the latter; one share of the rows for both is an
            interpretation, so that parts of a set are clustered as the whole.
        most_share: Share of its class from which on a cluster stays though it is not the largest, as there.
    """

    name: ClassVar[str] = "CUBE"
    needs: ClassVar[tuple[Need, ...]] = ("embeddings", "training")

    dimensions: int = 10
    least_share: float = 100 / 6920
    most_share: float = 0.5

    def suspects(self, context: FilterContext) -> Ints:
        """See `RowFilter`."""
        hidden = context.learner.hidden
        reduced = PCA(min(self.dimensions, *hidden.shape), random_state=context.seed).fit_transform(hidden)
        least = max(2, round(self.least_share * len(hidden)))
        cluster = HDBSCAN(min_cluster_size=least, copy=True).fit_predict(reduced)
        found = np.zeros(len(hidden), bool)
        for label in np.unique(context.classes):
            of_class = context.classes == label
            names, sizes = np.unique(cluster[of_class], return_counts=True)
            kept = sizes >= self.most_share * of_class.sum()
            kept[sizes.argmax()] = True
            found |= of_class & ~np.isin(cluster, names[kept])
        return np.flatnonzero(found)
