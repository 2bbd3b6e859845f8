"""ABL: rows whose loss falls first.

Yige Li, Xixiang Lyu, Nodens Koren, Lingjuan Lyu, Bo Li, Xingjun Ma: Anti-Backdoor Learning: Training Clean Models on
Poisoned Data. NeurIPS 2021, arXiv 2110.11571.

This is the first half, isolation, as a filter; the second half, unlearning, trains the model itself. The model is the
learner (`learner`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from poison2poison.defences.base import Need, RowFilter, register
from poison2poison.defences.context import FilterContext
from poison2poison.defences.learner import teach
from poison2poison.features import Ints


@register
@dataclass(frozen=True)
class AntiBackdoorLearning(RowFilter):
    """A fixed share of the rows goes, those with the smallest loss early in training.

    Attributes:
        share: Of the rows that are isolated. The paper's 1 % is enough to unlearn a backdoor by; as a filter it finds
            at most a tenth of 10 % poisoned rows, and suspects as many of clean ones.
        epochs: Early epochs, as in the paper.
        flood: The loss that rows are held at (local gradient ascent), below which only what is learned fast falls.
    """

    name: ClassVar[str] = "ABL"
    needs: ClassVar[tuple[Need, ...]] = ("embeddings", "training")

    share: float = 0.01
    epochs: int = 20
    flood: float = 0.5

    def suspects(self, context: FilterContext) -> Ints:
        """See `RowFilter`."""
        early = teach(context.states, context.answers, context.seed, epochs=self.epochs, flood=self.flood)
        isolated = max(1, round(self.share * len(early.losses)))
        return np.sort(np.argsort(early.losses)[:isolated])
