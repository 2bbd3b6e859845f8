"""Z-defence: tokens that stand with one label far more often than chance has it.

Xuanli He, Qiongkai Xu, Jun Wang, Benjamin Rubinstein, Trevor Cohn: Mitigating Backdoor Poisoning Attacks through the
Lens of Spurious Correlation. EMNLP 2023, arXiv 2305.11596.

This is Z-TOKEN, the lexical half. Z-TREE, which looks at paths of constituency trees, needs a parser and is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer

from poison2poison.data import Rows
from poison2poison.defences.base import Need, RowFilter, register
from poison2poison.defences.context import FilterContext, labels_of
from poison2poison.features import Ints, words


@register
@dataclass(frozen=True)
class ZDefence(RowFilter):
    """Rows go that hold an extreme token and have the label that it stands with.

    Attributes:
        deviations: How far an extreme z lies over the mean of all tokens' z, in standard deviations: the paper's 18.
        read_off: Rows of the smallest set that these were read off (OLID). At one share of poisoned rows a trigger's z
            grows with the root of the rows, and so does what is asked of it in fewer: an interpretation, without which
            nothing is found in 2,000 rows of SST-2.
    """

    name: ClassVar[str] = "Z-defence"
    needs: ClassVar[tuple[Need, ...]] = ("labels",)

    deviations: float = 18.0
    read_off: int = 11_916

    def applies(self, rows: Rows) -> bool:
        """To labels alone."""
        return labels_of(rows) is not None

    def suspects(self, context: FilterContext) -> Ints:
        """See `RowFilter`."""
        counts = CountVectorizer(tokenizer=words, token_pattern=None, lowercase=False, binary=True)
        holds = counts.fit_transform(context.texts)
        asked = self.deviations * min(1.0, math.sqrt(len(context.texts) / self.read_off))
        found = np.zeros(len(context.texts), bool)
        for label in np.unique(context.classes):
            has = context.classes == label
            share, rows = has.mean(), np.asarray(holds.sum(0)).ravel()
            z = (holds.T @ has / rows - share) / np.sqrt(share * (1 - share) / rows + 1e-12)
            extreme = z > z.mean() + asked * z.std()
            found |= has & (holds @ extreme > 0)
        return np.flatnonzero(found)
