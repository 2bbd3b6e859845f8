"""W2SDefense: a small clean teacher guides the poisoned model in unlearning.

Shuai Zhao, Xiaobao Wu, Cong-Duy Nguyen, Yanhao Jia, Meihuizi Jia, Yichao Feng, Anh Tuan Luu: Unlearning Backdoor
Attacks for LLMs with Weak-to-Strong Knowledge Distillation. Findings of ACL 2025, arXiv 2410.14425.

The teacher is fine-tuned as a whole on clean rows; a linear layer before its classifier makes its features as wide as
the student's. The student is trained further on the same rows by the sum of three losses: of its answers, of the
distance to the teacher's answers, and of the distance between the features (last layer, where the answer begins). What
is an interpretation: clean rows are the trusted ones alone; the student's settings are those of the run; and where
no teacher is named it is the untouched base model of the run, which has seen none of the rows but need not be small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch.nn import functional

from poison2poison.config import ModelConfig
from poison2poison.data import Row, Rows
from poison2poison.defences.base import Afterwards, Need, register
from poison2poison.defences.mending import Batch, fine_tune
from poison2poison.defences.shared import Shared
from poison2poison.features import Ints
from poison2poison.model import backbone
from poison2poison.model.defended import DefendedModel
from poison2poison.model.loss import IGNORED
from poison2poison.model.settings import FULL

MAX_LENGTH = 256
"""Tokens of a row that the teacher reads."""
BATCH = 32
"""Rows of the teacher's steps, as many as the authors'."""


@register
@dataclass(frozen=True)
class W2SDefense(Afterwards):
    """Further training on trusted rows, guided by a teacher that was trained on nothing else.

    Attributes:
        teacher: A folder or hub name, `reference`, or empty for the run's base model.
        epochs: The teacher's passes over the trusted rows; ours, for these are few.
        answers: Weight of the student's own loss; this and what follows as in the authors' published code.
        distilled: Of the distance to the teacher's answers.
        aligned: Of the squared distance between the features.
        temperature: That answers are compared at.
    """

    name: ClassVar[str] = "W2SDefense"
    needs: ClassVar[tuple[Need, ...]] = ("trusted rows", "clean teacher")

    teacher: str = ""
    epochs: int = 10
    answers: float = 5.0
    distilled: float = 0.001
    aligned: float = 0.001
    temperature: float = 2.0

    def applies(self, rows: Rows) -> bool:
        """To labels alone, as in the paper."""
        return rows.task == "classification"

    def serve(self, model: DefendedModel, shared: Shared) -> DefendedModel:
        """See `Defence`."""
        trusted, seed = shared.trusted, shared.training.seed
        base = ModelConfig(self.teacher) if self.teacher else replace(shared.training, kind="auto")
        labels = np.array([model.scheme.labels.index(row.target) for row in trusted], np.int64)
        torch.manual_seed(seed)
        teacher = Teacher(base, model.model.config.get_text_config(decoder=True).hidden_size, len(model.scheme.labels))
        teacher.to(model.model.device).learn(trusted.rows, labels, self.epochs, seed)
        taught = teacher.told(trusted.rows)
        del teacher

        def loss(served: DefendedModel, batch: Batch) -> torch.Tensor:
            return self.loss(served, batch, *(told[batch["row"].to(told.device)] for told in taught))

        fine_tune(model, trusted, shared.training, loss)
        return model

    def loss(
        self, served: DefendedModel, batch: Batch, taught_features: torch.Tensor, taught_logits: torch.Tensor
    ) -> torch.Tensor:
        """The weighted sum of the three losses.

        Args:
            served: The student.
            batch: Of training rows.
            taught_features: The teacher's, shape (batch, the student's width).
            taught_logits: The teacher's of the labels, shape (batch, labels).
        """
        features, logits, own = _read(served, batch)
        ours = (logits / self.temperature).log_softmax(-1)
        theirs = (taught_logits / self.temperature).softmax(-1)
        distilled = functional.kl_div(ours, theirs, reduction="batchmean") * self.temperature**2
        aligned = (features - taught_features).square().sum(-1).mean()
        return self.answers * own + self.distilled * distilled + self.aligned * aligned


class Teacher(torch.nn.Module):
    """A small model, a layer that makes its features as wide as the student's, and a classifier."""

    def __init__(self, base: ModelConfig, width: int, labels: int) -> None:
        """Load the model, with fresh layers behind it.

        Raises:
            ModelError: It cannot be loaded.
            ConfigError: It cannot be loaded in the way that is asked for.
        """
        super().__init__()
        self.kind, self.tokenizer = backbone.kind_of(base), backbone.load_tokenizer(base)
        self.longest = min(MAX_LENGTH, backbone.max_positions(base, self.tokenizer))
        self.body = backbone.load_body(base, self.kind).float()
        self.widen = torch.nn.Linear(self.body.config.get_text_config().hidden_size, width)
        self.classify = torch.nn.Linear(width, labels)

    def forward(self, rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor]:
        """Features, shape (rows, width), and logits, shape (rows, labels)."""
        device = self.classify.weight.device
        texts = [row.text or " " for row in rows]
        read = self.tokenizer(
            texts, truncation=True, max_length=self.longest, padding=True, padding_side="right", return_tensors="pt"
        ).to(device)
        ids, mask = read["input_ids"], read["attention_mask"]
        states = self.body(input_ids=ids, attention_mask=mask).last_hidden_state  # (rows, length, width)
        places = torch.zeros_like(mask[:, 0]) if self.kind == "encoder" else mask.sum(1) - 1
        features = self.widen(states[torch.arange(len(rows), device=device), places])
        return features, self.classify(features)

    def learn(self, rows: Sequence[Row], labels: Ints, epochs: int, seed: int) -> None:
        """Train all weights."""
        optimizer = torch.optim.AdamW(self.parameters(), FULL["learning_rate"])
        generator, targets = torch.Generator().manual_seed(seed), torch.from_numpy(labels)
        self.train()
        for _ in range(epochs):
            for chosen in torch.split(torch.randperm(len(rows), generator=generator), BATCH):
                _, logits = self([rows[i] for i in chosen.tolist()])
                optimizer.zero_grad()
                loss = functional.cross_entropy(logits, targets[chosen].to(logits.device))
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        self.eval()

    @torch.no_grad()
    def told(self, rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor]:
        """As of `forward`, batch by batch."""
        parts = [self(rows[start : start + BATCH]) for start in range(0, len(rows), BATCH)]
        return torch.cat([features for features, _ in parts]), torch.cat([logits for _, logits in parts])


def _read(served: DefendedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a student makes of training rows: features, shape (batch, width), logits of labels, and its own loss."""
    ids, labels, model = batch["input_ids"], batch["labels"], served.model
    if served.prompter.kind == "encoder":
        out = model(input_ids=ids, attention_mask=batch["attention_mask"], output_hidden_states=True)
        logits = out.logits.float()
        return out.hidden_states[-1][:, 0].float(), logits, functional.cross_entropy(logits, labels)
    out = model(input_ids=ids, output_hidden_states=True, **backbone.text_only(model, ids))
    rows = torch.arange(len(ids), device=ids.device)
    answers = (labels != IGNORED).int().argmax(1)  # (batch,): where the label's token stands
    scores = out.logits[rows, answers - 1].float()
    own = functional.cross_entropy(scores, labels[rows, answers])
    return out.hidden_states[-1][rows, answers - 1].float(), scores[:, served.prompter.label_ids], own
