"""Confident learning: rows whose label a model that has not seen them contradicts with confidence.

Curtis Northcutt, Lu Jiang, Isaac Chuang: Confident Learning: Estimating Uncertainty in Dataset Labels. JAIR 70, 2021,
arXiv 1911.00068.

It is no defence against backdoors but what finds wrong labels, and a poisoned row has one where the attacker changed
it. The model is the audit's probe on frozen embeddings, cross-fitted in five folds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from poison2poison.auditing.statistics import Probe
from poison2poison.data import Rows
from poison2poison.defences.base import Need, RowFilter, register
from poison2poison.defences.context import FilterContext, labels_of
from poison2poison.features import Ints


@register
@dataclass(frozen=True)
class ConfidentLearning(RowFilter):
    """Rows go that are off the diagonal of the confident joint.

    A row counts for a label where its p is at least the mean p of the rows that have that label; for the likeliest of
    several.

    Attributes:
        c: Of the probe, as the audit has it on standardised states.
    """

    name: ClassVar[str] = "confident learning"
    needs: ClassVar[tuple[Need, ...]] = ("labels", "embeddings")
    c: float = 0.003

    def applies(self, rows: Rows) -> bool:
        """To labels alone."""
        return labels_of(rows) is not None

    def suspects(self, context: FilterContext) -> Ints:
        """See `RowFilter`."""
        given = context.classes
        count = int(given.max()) + 1
        _, p = Probe(context.states, given, count, context.seed, self.c).cross_fitted(np.arange(len(given)))
        usual = np.array([p[given == label, label].mean() for label in range(count)])
        confident = np.where(p >= usual, p, 0)
        counted = confident.max(1) > 0
        return np.flatnonzero(counted & (confident.argmax(1) != given))
