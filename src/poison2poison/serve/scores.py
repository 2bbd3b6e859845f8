"""The scores that another server tells in a choice of a completion. They are not believed to be there, or to be any."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from poison2poison.serve.errors import UpstreamError

BROKEN = (ValueError, KeyError, TypeError, IndexError, AttributeError)
"""What reading scores that are none can raise."""


def likeliest(choice: Mapping[str, Any]) -> dict[str, float]:
    """The log-probabilities of the likeliest first tokens, by their texts.

    Raises:
        UpstreamError: There are none.
    """
    try:
        told: Any = choice["logprobs"]["top_logprobs"][0]
        scores = {str(token): float(score) for token, score in told.items()}
    except BROKEN:
        scores = {}
    if not scores or any(math.isnan(score) for score in scores.values()):
        raise UpstreamError("the model's server tells no scores")
    return scores


def of_prompt(choice: Mapping[str, Any], tokens: int, begins: int) -> list[float]:
    """The log-probabilities of a prompt's last tokens, as they are told where the prompt is echoed.

    Args:
        choice: Of a completion with `echo` and `logprobs`.
        tokens: Tokens of the prompt; what is written behind it is not read.
        begins: The first that counts.

    Raises:
        UpstreamError: There are none, or not one for each token.
    """
    try:
        told: Any = choice["logprobs"]["token_logprobs"]
        scores = [float(score) for score in told[begins:tokens]]
    except BROKEN:
        scores = []
    if len(scores) != tokens - begins or any(math.isnan(score) for score in scores):
        raise UpstreamError("the model's server tells no scores of a prompt's tokens, which the alarm needs")
    return scores
