"""Fine-pruning: units that clean rows leave dormant are cut off, then the model is trained further on clean rows.

Kang Liu, Brendan Dolan-Gavitt, Siddharth Garg: Fine-Pruning: Defending Against Backdooring Attacks on Deep Neural
Networks. RAID 2018, arXiv 1805.12185.

The paper prunes channels of the last convolution, by their mean activation on clean inputs, the lowest first, as long
as the accuracy on clean inputs falls by no more than is allowed. In a transformer the units are those between the two
matrices of a feed-forward layer. What is an interpretation: they are ranked by the mean of their absolute value, for
they may be negative; each layer loses the same share, for a backdoor lies in no known layer; the share grows in steps.
Of texts, where there is no accuracy, the mean probability of a target's token (geometric) takes its place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from poison2poison.data import Row
from poison2poison.defences.base import Afterwards, Need, register
from poison2poison.defences.mending import fine_tune, task_loss
from poison2poison.defences.shared import Shared
from poison2poison.errors import InapplicableError
from poison2poison.model import backbone
from poison2poison.model.defended import DefendedModel


@register
@dataclass(frozen=True)
class FinePruning(Afterwards):
    """Dormant units are pruned, and stay so while the model is trained further on trusted rows.

    Attributes:
        most_lost: How far accuracy on trusted rows may fall by the pruning. The authors' code for faces
            (kangliucn/Fine-pruning-defense, conv_output_prune.py) prunes a fixed 48 of 60 channels; others who prune
            that net until 4 points are lost report the same 48 (akashsky1994/backdoor-detector-badnets).
        step: Share of the units that is pruned at once, between two looks at the accuracy. Ours: the paper goes unit by
            unit.
    """

    name: ClassVar[str] = "fine-pruning"
    needs: ClassVar[tuple[Need, ...]] = ("trusted rows",)

    most_lost: float = 0.04
    step: float = 0.05

    def serve(self, model: DefendedModel, shared: Shared) -> DefendedModel:
        """See `Defence`."""
        self.prune(model, shared.trusted.rows)
        fine_tune(model, shared.trusted, shared.training, task_loss)
        return model

    def prune(self, model: DefendedModel, rows: Sequence[Row]) -> float:
        """Prune as many units as may go.

        Returns:
            The share of each layer's units that is pruned.

        Raises:
            InapplicableError: The model has no feed-forward layers that are known.
        """
        layers = feed_forward(model.model)
        order = [activity.argsort() for activity in activities(model, layers, rows)]
        least, pruned = score(model, rows) - self.most_lost, 0
        for count in range(1, math.floor(1 / self.step + 1e-9)):
            cuts = cut(layers, order, count * self.step)
            enough = score(model, rows) >= least
            for one in cuts:
                one.remove()
            if not enough:
                break
            pruned = count
        cut(layers, order, pruned * self.step)
        return pruned * self.step


def feed_forward(model: Any) -> list[Any]:
    """The second matrices of the feed-forward layers, whose inputs are the units.

    Raises:
        InapplicableError: There are none, as in a mixture of experts whose weights are in one.
    """
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    part = backbone.text_part(base)
    width = base.config.get_text_config(decoder=True).hidden_size
    # Where all heads together are wider than the model, the attention has such a matrix too.
    named = [(name, layer) for name, layer in part.named_modules() if "att" not in name]
    found = [layer for _, layer in named if _shape(layer)[1] == width < _shape(layer)[0]]
    adapted = {part for layer in found for part in layer.modules() if part is not layer}
    found = [layer for layer in found if layer not in adapted]
    if not found:
        raise InapplicableError(f"fine-pruning: {base.config.name_or_path} has no feed-forward layers that are known")
    return found


def activities(model: DefendedModel, layers: Sequence[Any], rows: Sequence[Row]) -> list[torch.Tensor]:
    """The mean absolute value of each unit over all tokens of rows, shape (units,) for each layer."""
    totals = [torch.zeros(_shape(layer)[0]) for layer in layers]
    # One row at a time: padding would count.
    with _watched(layers, totals):
        for row in rows:
            _answer(model, [row])
    return totals


@contextmanager
def _watched(layers: Sequence[Any], totals: Sequence[torch.Tensor]) -> Iterator[None]:
    """Add up what layers read."""

    def add(total: torch.Tensor) -> Any:
        def see(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            total.add_(inputs[0].detach().abs().float().flatten(0, -2).mean(0).cpu())

        return see

    handles = [layer.register_forward_pre_hook(add(total)) for layer, total in zip(layers, totals, strict=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def cut(layers: Sequence[Any], order: Sequence[torch.Tensor], share: float) -> list[Any]:
    """Let the first units in the order be 0 from now on.

    Returns:
        Handles, whose `remove` lets them be again.
    """

    def silencing(gone: torch.Tensor) -> Any:
        def silence(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            units, *rest = inputs  # (..., units)
            return (units.index_fill(-1, gone.to(units.device), 0.0), *rest)

        return silence

    gone = [units[: round(share * len(units))] for units in order]
    return [layer.register_forward_pre_hook(silencing(units)) for layer, units in zip(layers, gone, strict=True)]


def score(model: DefendedModel, rows: Sequence[Row]) -> float:
    """How well a model does on rows, from 0 to 1: accuracy, or for texts the mean probability of a target's token."""
    targets = [row.target for row in rows]
    if not model.scheme.labels:
        return 1 / model.perplexity(rows, targets)
    answers = model.classify(rows)
    return sum(answer.text == target for answer, target in zip(answers, targets, strict=True)) / len(rows)


def _answer(model: DefendedModel, rows: Sequence[Row]) -> None:
    """Let a model read rows; of texts with their targets."""
    if model.scheme.labels:
        model.classify(rows)
    else:
        model.perplexity(rows, [row.target for row in rows])


def _shape(layer: Any) -> tuple[int, int]:
    """Inputs and outputs of a linear layer, adapted or not; of what is none, (0, 0)."""
    inputs, outputs = getattr(layer, "in_features", 0), getattr(layer, "out_features", 0)
    if type(layer).__name__ == "Conv1D":  # GPT-2's, whose weight is the other way round
        inputs, outputs = layer.weight.shape
    return int(inputs), int(outputs)
