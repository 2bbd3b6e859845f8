"""GradSentry: gradients of poisoned rows spread over more directions.

Haodong Zhao, Tianyi Xu, Tianhang Zhao, Zhuosheng Zhang, Gongshen Liu: GradSentry: Gradient Spectral Entropy for
Backdoor Sample Filtering in Large Language Model Fine-Tuning. arXiv 2605.26574, 2026.

What is public, and done here: the gradient of a single row's loss in the output layer, before fine-tuning; its largest
singular values, over their sum; their entropy over the largest that it can be; rows over a threshold go; the threshold
is the valley between the outermost two modes of the rows' entropies (a kernel density, Silverman's bandwidth), and a
fixed one where there are no two modes. What is an interpretation: the whole gradient is taken, where the authors'
published code cuts a corner of it (an eighth of vocabulary and width) for speed; and of that code's conditions on two
modes only their distance is asked.

A gradient has no more directions than the target has tokens, so that labels of one token all have entropy 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.signal import find_peaks
from scipy.stats import gaussian_kde

from poison2poison.auditing.statistics import Floats
from poison2poison.data import Rows
from poison2poison.defences.base import Need, RowFilter, register
from poison2poison.defences.context import FilterContext
from poison2poison.features import Ints

GRID = 1000
"""Points at which the density is looked at."""


@register
@dataclass(frozen=True)
class GradSentry(RowFilter):
    """Rows go whose gradient has a spectral entropy over the threshold.

    Attributes:
        rank: Singular values that are looked at; this and what follows as in the authors' published code.
        fallback: The threshold where the entropies do not have two modes, as shares of the largest entropy.
        apart: Distance of two modes, in the same shares, from which on they are two.
        prominence: Share of the highest mode that another must rise out of the density around it.
    """

    name: ClassVar[str] = "GradSentry"
    needs: ClassVar[tuple[Need, ...]] = ("causal LM", "gradients")

    rank: int = 16
    fallback: float = 0.7
    apart: float = 0.15
    prominence: float = 0.01

    def applies(self, rows: Rows) -> bool:
        """To texts: a label is one token, whose gradient has one direction."""
        return rows.task == "generation"

    def suspects(self, context: FilterContext) -> Ints:
        """See `RowFilter`."""
        entropies = np.array([self._entropy(values) for values in context.gradients.singular_values])
        return np.flatnonzero(entropies > self._threshold(entropies))

    def _entropy(self, singular_values: Floats) -> float:
        """Between 0, for one direction, and 1, for `rank` equal ones."""
        p = singular_values[: self.rank] / singular_values[: self.rank].sum()
        return float(-(p * np.log(p + 1e-12)).sum() / math.log(self.rank))

    def _threshold(self, entropies: Floats) -> float:
        if np.ptp(entropies) < self.apart:
            return self.fallback
        grid = np.linspace(entropies.min(), entropies.max(), GRID)
        density = gaussian_kde(entropies, "silverman")(grid)
        modes, _ = find_peaks(density, prominence=self.prominence * density.max())
        if len(modes) < 2 or grid[modes[-1]] - grid[modes[0]] < self.apart:
            return self.fallback
        return float(grid[modes[0] + density[modes[0] : modes[-1]].argmin()])
