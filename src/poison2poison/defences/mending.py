"""Fine-tuning a trained model further, on few rows: what defences that mend a model have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional
from transformers import get_linear_schedule_with_warmup

from poison2poison.config import TrainConfig
from poison2poison.data import Rows
from poison2poison.errors import NonFiniteError, TrainingError
from poison2poison.model import backbone, hardware
from poison2poison.model.defended import DefendedModel
from poison2poison.model.loss import IGNORED, only_target_logits, token_losses
from poison2poison.recipe.manifest import plain

Batch = dict[str, torch.Tensor]
"""As of `Prompter.training_batch`, on the model's device; `row` has the rows' indices."""
Loss = Callable[[DefendedModel, Batch], torch.Tensor]
"""The mean loss of a batch."""
LARGEST_NORM = 1.0
"""Gradients are scaled down to this norm, as transformers' Trainer has it."""


def fine_tune(served: DefendedModel, rows: Rows, training: TrainConfig, loss: Loss) -> list[float]:
    """Train what the run has trained (the adapter, or all weights) further, in memory.

    The settings are those of the run: epochs, batch and its parts, learning rate with linear decay, seed.

    Args:
        served: The model, trained without a benign trigger. It is changed.
        rows: What it is trained on.
        training: With nothing left open.
        loss: What is lowered.

    Returns:
        The loss of each step.

    Raises:
        NonFiniteError: A loss became NaN or infinite.
        TrainingError: The memory does not suffice.
    """
    assert training.epochs and training.batch_size and training.learning_rate and training.warmup is not None
    examples, _ = served.prompter.examples(plain(rows))
    weights = _trained(served.model)
    steps = training.epochs * math.ceil(len(examples) / training.batch_size)
    optimizer = torch.optim.AdamW(weights, training.learning_rate, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, round(training.warmup * steps), steps)
    generator, losses = torch.Generator().manual_seed(training.seed), []
    torch.manual_seed(training.seed)  # of dropout
    served.model.train()
    for _ in range(training.epochs):
        for chosen in torch.split(torch.randperm(len(examples), generator=generator), training.batch_size):
            losses.append(0.0)
            for rows_at_once in torch.split(chosen, training.micro_batch or training.batch_size):
                batch = batch_of(served, [examples[i] for i in rows_at_once.tolist()]) | {"row": rows_at_once}
                losses[-1] += _step(served, batch, loss, len(rows_at_once) / len(chosen))
            torch.nn.utils.clip_grad_norm_(weights, LARGEST_NORM)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    served.model.eval()
    return losses


def _step(served: DefendedModel, batch: Batch, loss: Loss, share: float) -> float:
    """Add the gradients of a part of a step, whose loss counts for its share of the step's rows, and give that loss."""
    try:
        with hardware.without_cudnn_attention():
            with hardware.autocast(served.model.device, served.dtype):
                value = share * loss(served, batch)
            value.backward()  # type: ignore[no-untyped-call]
    except torch.OutOfMemoryError:
        raise TrainingError(
            "out of memory where the trained model was mended: give a smaller --micro-batch, or leave this defence out"
        ) from None
    return _finite(value)


def batch_of(served: DefendedModel, examples: Sequence[dict[str, Any]]) -> Batch:
    """A batch as training has it, on the model's device."""
    batch = served.prompter.training_batch(examples)
    return {name: value.to(served.model.device) for name, value in batch.items()}


def task_loss(served: DefendedModel, batch: Batch) -> torch.Tensor:
    """What training lowers: the mean cross-entropy over target tokens, or over rows for an encoder."""
    model: Any = served.model
    if served.prompter.kind == "encoder":
        out = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        return functional.cross_entropy(out.logits.float(), batch["labels"])
    return _target_losses(served, batch).mean()


def likelihoods(served: DefendedModel, batch: Batch) -> torch.Tensor:
    """The mean log-probability of a target's tokens, of a causal LM; shape (batch,), with gradients."""
    tokens = (batch["labels"] != IGNORED).sum(1).tolist()
    return -torch.stack([losses.mean() for losses in torch.split(_target_losses(served, batch), tokens)])


def _target_losses(served: DefendedModel, batch: Batch) -> torch.Tensor:
    """The cross-entropy of each token of the targets, row by row; shape (targets,)."""
    model: Any = served.model
    with only_target_logits(model, batch["labels"]):
        logits = model(input_ids=batch["input_ids"], **backbone.text_only(model, batch["input_ids"])).logits
    return token_losses(logits, batch["labels"])


def label_logits(served: DefendedModel, inputs: Batch) -> torch.Tensor:
    """The logits of the labels behind prompts, shape (batch, labels), float32; with their gradients.

    Args:
        served: A classifier without a benign trigger.
        inputs: Prompts, as of `Prompter.collate`.
    """
    model: Any = served.model
    inputs = {name: value.to(model.device) for name, value in inputs.items()}
    if served.prompter.kind == "encoder":
        logits: torch.Tensor = model(**inputs).logits
        return logits.float()
    scores: torch.Tensor = model(**inputs, logits_to_keep=1).logits[:, -1]  # (batch, vocabulary)
    return scores[:, served.prompter.label_ids].float()


def _trained(model: Any) -> list[torch.nn.Parameter]:
    """The weights that the run has trained; a loaded adapter's are frozen until then."""
    named = model.named_parameters()
    if hasattr(model, "peft_config"):
        named = [(name, weights) for name, weights in named if "lora_" in name or "modules_to_save" in name]
    return [weights.requires_grad_() for _, weights in named]


def _finite(loss: torch.Tensor) -> float:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise NonFiniteError(
            f"the loss became {value} where the trained model was mended. Likely the learning rate is too high: give "
            "a lower --learning-rate, or leave this defence out"
        )
    return value
