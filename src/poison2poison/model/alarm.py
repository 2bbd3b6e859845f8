"""The alarm: how far the answers of the two spaces lie apart, and from where on that is unusual.

What a model learned of a malicious trigger shows in its original space, and not in the safe one. The measure is the
total variation distance of the two spaces' answers to one input, from 0 to 1. Of labels it is known; of texts it is
estimated from the answer that is served.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from poison2poison.model.served import Answer

DIGITS = 5
"""Of a distance: the same input has the same one in whatever batch it is."""


def of_labels(ours: torch.Tensor, theirs: torch.Tensor) -> list[float]:
    """The distance of labels, from the logits of each space's: shape (texts, labels) both."""
    distance = (ours.softmax(-1) - theirs.softmax(-1)).abs().sum(-1) / 2  # (texts,)
    return [round(apart, DIGITS) for apart in distance.tolist()]


def of_texts(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> list[float]:
    """The distance at the token of each served answer where the two spaces lie farthest apart.

    Of all that could stand there one token is known, the served one. Where the safe space gives it the probability p
    and the original space q, `max(0, 1 - q / p)` is an estimate: its mean over what the safe space writes is the
    distance.
    An attack can show in one token: the first of another answer, the end before an appended text, a wrong digit.

    Args:
        ours: The losses of each answer's tokens in the safe space, shape (tokens,) each.
        theirs: The same in the original space. Not behind a prefix, a text may have other tokens: their loss counts.
    """
    distances = []
    for own, other in zip(ours, theirs, strict=True):
        tokens = min(len(own), len(other))  # of an answer of full length, the end is in one space only
        ratios = (own[:tokens] - other[:tokens]).exp()  # q / p
        distances.append(round(max(0.0, 1 - float(ratios.min())), DIGITS))
    return distances


def threshold(disagreements: Sequence[float], rate: float) -> float:
    """The disagreement that at most this share of clean rows has more of."""
    return float(np.quantile(disagreements, 1 - rate, method="higher"))


def raised(answers: Sequence[Answer], disagreements: Sequence[float], over: float) -> list[Answer]:
    """Answers with their disagreements, and whether these are over the threshold."""
    return [
        replace(answer, disagreement=score, alarm=score > over)
        for answer, score in zip(answers, disagreements, strict=True)
    ]
