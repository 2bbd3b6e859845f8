"""GraCeFul: poisoned rows teach the output layer something else, which shows in the low frequencies of their gradients.

Zongru Wu, Pengzhou Cheng, Lingyong Fang, Zhuosheng Zhang, Gongshen Liu: Gracefully Filtering Backdoor Samples for
Generative Large Language Models without Retraining. COLING 2025, arXiv 2412.02454.

Gradients are those of `lm_head` in the model before it is fine-tuned, as in the paper; here of a small causal LM, and
the low frequencies of the vocabulary are projected on random axes, or they would not fit into memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from sklearn.cluster import AgglomerativeClustering
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from poison2poison.defences.base import Need, RowFilter, register
from poison2poison.defences.context import FilterContext
from poison2poison.features import Ints


@register
@dataclass(frozen=True)
class GraCeFul(RowFilter):
    """The smaller of two clusters goes: hierarchical ones, by the mean cosine distance.

    Attributes:
        components: Principal components that the frequencies are reduced to, as in the paper.
    """

    name: ClassVar[str] = "GraCeFul"
    needs: ClassVar[tuple[Need, ...]] = ("causal LM", "gradients")

    components: int = 32

    def suspects(self, context: FilterContext) -> Ints:
        """See `RowFilter`."""
        frequencies = context.gradients.low_frequencies
        components = min(self.components, *frequencies.shape)
        reduced = PCA(components, random_state=context.seed).fit_transform(frequencies)
        scaled = StandardScaler().fit_transform(reduced)
        cluster = AgglomerativeClustering(2, metric="cosine", linkage="average").fit_predict(scaled)
        return np.flatnonzero(cluster == np.bincount(cluster).argmin())
