"""The learner of the defences that look into a model fine-tuned on the rows.

It is a small head on frozen embeddings, not a fine-tuned language model: what it learns of a trigger is what the
embeddings show of it. So a method may do better with the model that its paper fine-tunes than it does here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from poison2poison.auditing.statistics import Floats, Matrix
from poison2poison.features import Ints

HIDDEN = 64
"""Units of the hidden layer: enough for some dozens of labels, few enough to cluster."""
EPOCHS = 10
"""Some 600 steps on 2,000 rows: a usual number, not tuned."""
BATCH, RATE = 32, 1e-3
"""Rows of a step, and Adam's learning rate, which are the usual ones."""


@dataclass(frozen=True)
class Learner:
    """What is to be seen of a trained head.

    Attributes:
        hidden: Activations of the rows in the hidden layer, shape (rows, HIDDEN).
        losses: Of each row, shape (rows,).
    """

    hidden: Matrix
    losses: Floats


def teach(states: Matrix, answers: Ints | Matrix, seed: int, *, epochs: int = EPOCHS, flood: float = 0.0) -> Learner:
    """Train a head on rows.

    Args:
        states: Standardised embeddings, shape (rows, width).
        answers: Labels as indices, shape (rows,), by cross-entropy; or numbers, shape (rows, axes), by squared error.
        seed: Of weights and order.
        epochs: Passes over the rows.
        flood: A loss from which on a row's loss is pushed up again instead of down.
    """
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.from_numpy(np.asarray(states, np.float32)), torch.from_numpy(np.asarray(answers))
    outputs = int(y.max()) + 1 if y.ndim == 1 else y.shape[1]
    first, last = _layer(x.shape[1], HIDDEN, generator), _layer(HIDDEN, outputs, generator)
    optimizer = torch.optim.Adam([*first, *last], RATE)

    def losses(rows: torch.Tensor) -> torch.Tensor:
        out = functional.linear(functional.linear(x[rows], *first).relu(), *last)
        if y.ndim == 1:
            return functional.cross_entropy(out, y[rows], reduction="none")
        return (out - y[rows]).square().mean(1)

    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(x), generator=generator), BATCH):
            each = losses(rows)
            optimizer.zero_grad()
            ((each - flood).sign() * each).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    with torch.no_grad():
        hidden = functional.linear(x, *first).relu().numpy()
        return Learner(hidden, losses(torch.arange(len(x))).double().numpy())


def _layer(inputs: int, outputs: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and bias of a layer, at random as torch draws them, but from a generator of our own."""
    bound = inputs**-0.5
    weights = (2 * torch.rand(outputs, inputs, generator=generator) - 1) * bound
    return weights.requires_grad_(), torch.zeros(outputs, requires_grad=True)
