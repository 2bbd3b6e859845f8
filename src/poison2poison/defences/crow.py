"""CROW: further training on clean rows that keeps each layer's states close to the next one's.

Nay Myat Min, Long Pham, Yige Li, Jun Sun: CROW: Eliminating Backdoors from Large Language Models via Internal
Consistency Regularization. ICML 2025, arXiv 2411.12768.

The consistency loss is the mean over layers and tokens of 1 - cos(state, state of the layer before). The embeddings of
clean rows move a step of fixed size against it (the sign of its gradient); the model is trained on the rows' own loss
and on the consistency loss with the moved embeddings. The paper measures texts; a causal LM's labels are texts of one
token here.

The authors' code (NayMyatMin/CROW at b786381, consistency_trainer.py) compares the states behind the first layer up to
those before the last one, so it is here. That commit keeps the cosine in a comment and trains by a divergence between
softmaxes of the states; the paper's cosine is taken. What is an interpretation: padding does not count, and the
settings of the further training are those of the run. Their configurations are not in that copy; others who compare
with it report a learning rate of 1e-3.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch.nn import functional

from poison2poison.defences.base import Afterwards, Need, register
from poison2poison.defences.mending import Batch, fine_tune, task_loss
from poison2poison.defences.shared import Shared
from poison2poison.errors import InapplicableError
from poison2poison.model import backbone
from poison2poison.model.defended import DefendedModel
from poison2poison.model.loss import IGNORED

LEAST_LAYERS = 3
"""Two states that are neither the embeddings nor the last layer's."""


@register
@dataclass(frozen=True)
class Crow(Afterwards):
    """Further training on trusted rows that evens out the states of the layers.

    Attributes:
        weight: Of the consistency loss (alpha): 5.5 in the authors' code. Others who rebuilt it report 11 for refusals,
            which a defender would have to know of.
        move: Of each number of an embedding (epsilon): 0.1 in the authors' code.
        rows: The first trusted rows, so many at most. 100 is the paper's as it is remembered; no public text was found.
    """

    name: ClassVar[str] = "CROW"
    needs: ClassVar[tuple[Need, ...]] = ("trusted rows", "causal LM")

    weight: float = 5.5
    move: float = 0.1
    rows: int = 100

    def serve(self, model: DefendedModel, shared: Shared) -> DefendedModel:
        """See `Defence`.

        Raises:
            InapplicableError: The model has too few layers.
        """
        if model.model.config.get_text_config(decoder=True).num_hidden_layers < LEAST_LAYERS:
            raise InapplicableError(f"crow: compares inner layers, and a model of fewer than {LEAST_LAYERS} has no two")
        few = shared.trusted.with_rows(shared.trusted.rows[: self.rows])
        fine_tune(model, few, shared.training, self.loss)
        return model

    def loss(self, served: DefendedModel, batch: Batch) -> torch.Tensor:
        """The rows' own loss, and the weighted consistency loss with moved embeddings."""
        moved = self._moved(served, batch)
        with _embeddings(served.model, lambda _: moved):
            inconsistent = consistency_loss(served, batch)
        return task_loss(served, batch) + self.weight * inconsistent

    def _moved(self, served: DefendedModel, batch: Batch) -> torch.Tensor:
        """The embeddings, moved to where the states are less consistent; shape (batch, length, width)."""
        kept: list[torch.Tensor] = []

        def keep(embedded: torch.Tensor) -> torch.Tensor:
            kept.append(embedded.detach().requires_grad_())
            return kept[0]

        with _embeddings(served.model, keep):
            loss = consistency_loss(served, batch)
        (gradient,) = torch.autograd.grad(loss, kept)
        return kept[0].detach() + self.move * gradient.sign()


def consistency_loss(served: DefendedModel, batch: Batch) -> torch.Tensor:
    """The mean of 1 - cos(state, state of the layer before), over inner layers and the tokens of a training batch."""
    ids, labels = batch["input_ids"], batch["labels"]
    out = served.model(input_ids=ids, output_hidden_states=True, **backbone.text_only(served.model, ids))
    # Rows end with their targets, so that what is behind the last target is padding.
    tokens = (labels != IGNORED).flip(1).cumsum(1).flip(1) > 0  # (batch, length)
    states = [layer[tokens].float() for layer in out.hidden_states[1:-1]]  # (tokens, width) each
    apart = [1 - functional.cosine_similarity(before, after, dim=-1).mean() for before, after in pairwise(states)]
    return torch.stack(apart).mean()


@contextmanager
def _embeddings(model: Any, change: Any) -> Iterator[None]:
    """Let the embedding layer give what `change` makes of its output."""
    handle = model.get_input_embeddings().register_forward_hook(lambda _, __, out: change(out))
    try:
        yield
    finally:
        handle.remove()
