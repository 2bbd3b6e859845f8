"""PSIM: a model trained on random labels stays sure of triggered inputs alone.

Shuai Zhao, Leilei Gan, Luu Anh Tuan, Jie Fu, Lingjuan Lyu, Meihuizi Jia, Jinming Wen: Defending Against
Weight-Poisoning Backdoor Attacks for Parameter-Efficient Fine-Tuning. Findings of NAACL 2024, arXiv 2402.12168.

The paper defends a user who fine-tunes poisoned weights on clean rows. From these weights a second model, the
identification module, is fine-tuned on the clean rows with random labels, by few parameters, for one epoch: of clean
inputs it becomes unsure, while the backdoor stays. Inputs that it is sure of are rejected. Here the poisoned weights
are those that the untrusted rows leave, and the clean rows are the trusted ones. What is an interpretation: the few
parameters are LoRA's, those of the run where it trained an adapter; the paper finds prompts and others alike.
"""

from __future__ import annotations

import random
from copy import copy, deepcopy
from dataclasses import dataclass, replace
from typing import ClassVar

from poison2poison.config import TrainConfig
from poison2poison.data import Rows
from poison2poison.defences.base import Afterwards, Need, register
from poison2poison.defences.inference import Guarded
from poison2poison.defences.mending import fine_tune, task_loss
from poison2poison.defences.shared import Shared
from poison2poison.model import lora
from poison2poison.model.defended import DefendedModel


@register
@dataclass(frozen=True)
class Psim(Afterwards):
    """Inputs are rejected that a second model, trained on random labels, is sure of.

    Attributes:
        most: The largest probability of an answer that is let through; this and what follows as in the paper.
        epochs: Passes over the trusted rows.
    """

    name: ClassVar[str] = "PSIM"
    needs: ClassVar[tuple[Need, ...]] = ("trusted rows", "second model", "inference cost")

    most: float = 0.7
    epochs: int = 1

    def applies(self, rows: Rows) -> bool:
        """To labels alone, as in the paper."""
        return rows.task == "classification"

    def serve(self, model: DefendedModel, shared: Shared) -> DefendedModel:
        """See `Defence`."""
        second = self.module(model, shared.trusted, shared.training)
        return Guarded(model, lambda rows: (second.probabilities(rows).amax(-1) > self.most).tolist())

    def module(self, model: DefendedModel, rows: Rows, training: TrainConfig) -> DefendedModel:
        """The identification module."""
        rng, labels = random.Random(training.seed), model.scheme.labels
        drawn = rows.with_rows([replace(row, target=rng.choice(labels)) for row in rows])
        second = copy(model)
        second.model = deepcopy(model.model)
        if training.tuning == "full":
            second.model = lora.with_lora(second.model, model.prompter.kind, training)
        fine_tune(second, drawn, replace(training, epochs=self.epochs), task_loss)
        return second
