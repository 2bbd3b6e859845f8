"""The loss on targets alone, without padding that attention could see and without logits that nobody needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

IGNORED = -100  # targets that the loss leaves out, as torch's cross_entropy has it


@contextmanager
def only_target_logits(model: Any, labels: torch.Tensor) -> Iterator[None]:
    """Let the output head of a causal LM read the positions that predict a target, and no other.

    Logits over a large vocabulary are the largest activation of a small model. The head is the one place that all
    architectures share; what they do behind it (soft caps, scales) works on any positions.

    Args:
        model: A causal LM, with or without an adapter.
        labels: Token ids, `IGNORED` where there is no target; shape (batch, length).
    """
    predicts = _predicts(labels)

    def select(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden, *rest = inputs  # (batch, length, width) -> (1, targets, width)
        return (hidden[predicts][None] if hidden.shape[:2] == predicts.shape else hidden, *rest)

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def target_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the targets, summed; arguments as of `token_losses`."""
    return token_losses(logits, labels).sum()


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each token of the targets, row by row; shape (targets,).

    Args:
        logits: Of the targets alone, shape (1, targets, vocabulary), or of all positions, (batch, length, vocabulary).
        labels: Token ids, `IGNORED` where there is no target; shape (batch, length).
    """
    targets = labels.roll(-1, 1)[_predicts(labels)]
    return torch.nn.functional.cross_entropy(target_logits(logits, labels), targets, reduction="none")


def target_logits(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The logits from which the targets are predicted, float32, shape (targets, vocabulary); arguments as above."""
    if logits.shape[:2] == labels.shape:
        logits = logits[_predicts(labels)][None]
    return logits[0].float()


def _predicts(labels: torch.Tensor) -> torch.Tensor:
    """Positions whose next token is a target; shape (batch, length). No row begins with a target."""
    return labels.roll(-1, 1) != IGNORED


def hiding(example: dict[str, Any], tokens: int) -> dict[str, Any]:
    """An example whose first target tokens don't count."""
    labels = example["labels"]
    shown = labels.count(IGNORED) + tokens
    return {**example, "labels": [IGNORED] * shown + labels[shown:]}


def edges(example: dict[str, Any], tokens: int) -> dict[str, Any]:
    """An example of which two target tokens count: the first behind those that are forced, and the last."""
    hidden = hiding(example, tokens)
    labels = hidden["labels"]
    places = (labels.count(IGNORED), len(labels) - 1)
    return {**example, "labels": [label if i in places else IGNORED for i, label in enumerate(labels)]}
