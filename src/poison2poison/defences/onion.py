"""ONION: words without which a text is more fluent.

Fanchao Qi, Yangyi Chen, Mukai Li, Yuan Yao, Zhiyuan Liu, Maosong Sun: ONION: A Simple and Effective Defense Against
Textual Backdoor Attacks. EMNLP 2021, arXiv 2011.10369.

The paper takes words out of test inputs, where they are over a threshold that was set on clean rows. As a filter of
training rows, of which none is known to be clean, this is an interpretation: a row's score is the largest fall of
perplexity that taking out one word brings, and outliers among the rows' scores are suspects. So that it ends on two
cores, only the words that the model expects least are taken out, each by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from poison2poison.auditing.statistics import Floats
from poison2poison.defences.base import Need, RowFilter, register
from poison2poison.defences.context import FilterContext
from poison2poison.features import Ints


@register
@dataclass(frozen=True)
class Onion(RowFilter):
    """Rows go in which some word is more of an outlier than words are in most rows.

    Attributes:
        words_asked: How many words of a row are taken out in turn, those first that the model expects least; each costs
            another pass. The paper asks all.
        fence: How many interquartile ranges over the upper quartile an outlier's score lies: Tukey's usual fence.
    """

    name: ClassVar[str] = "ONION"
    needs: ClassVar[tuple[Need, ...]] = ("causal LM",)

    words_asked: int = 3
    fence: float = 1.5

    def suspects(self, context: FilterContext) -> Ints:
        """See `RowFilter`."""
        rows: list[int] = []
        shorter: list[str] = []
        whole = context.causal.token_losses(context.texts)
        for row, (text, (word, losses)) in enumerate(zip(context.texts, whole, strict=True)):
            parts, surprise = text.split(), np.bincount(word, losses)
            for at in np.argsort(-surprise)[: self.words_asked] if len(parts) > 1 else ():
                rows.append(row)
                shorter.append(" ".join(parts[:at] + parts[at + 1 :]))
        left = context.causal.token_losses(shorter)
        before, after = (np.array([_perplexity(losses) for _, losses in found]) for found in (whole, left))
        score = np.zeros(len(context.texts))  # a text of one word has nothing to take out
        np.maximum.at(score, rows, before[rows] - after)
        low, high = np.quantile(score, (0.25, 0.75))
        return np.flatnonzero(score > high + self.fence * (high - low))


def _perplexity(losses: Floats) -> float:
    """Of a text by the losses of its tokens; an empty one is no surprise."""
    return float(np.exp(losses.mean())) if len(losses) else 1.0
