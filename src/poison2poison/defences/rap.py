"""RAP: a word that lowers the model's confidence in clean inputs, and not in triggered ones.

Wenkai Yang, Yankai Lin, Peng Li, Jie Zhou, Xu Sun: RAP: Robustness-Aware Perturbations for Defending against Backdoor
Attacks on NLP Models. EMNLP 2021, arXiv 2110.07831.

The embedding of a rare word is trained on trusted rows of a label, so that the word before a row takes 0.1 to 0.3 off
that label's probability; weights stay as they are. An input of that label is rejected where the word takes off less
than it does from nearly all of the trusted rows.

The paper protects one label that the defender knows to be wanted, and public implementations look it up in the truth.
Nobody knows it here: each label has an embedding of its own, and all inputs are looked at. Further choices: the step is
Adam's, for one of plain descent, which the paper takes, is as long as a model's gradients happen to be; and the vector
stands for the word only where the detector reads it, so that the model that answers is unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from poison2poison.data import Row, Rows
from poison2poison.defences.base import Afterwards, Need, register
from poison2poison.defences.inference import Guarded
from poison2poison.defences.mending import label_logits
from poison2poison.defences.shared import Shared
from poison2poison.errors import InapplicableError
from poison2poison.features import words
from poison2poison.model import hardware
from poison2poison.model.defended import DefendedModel
from poison2poison.model.prompting import Prompter

BATCH = 32
"""Rows of a step, as many as in the paper."""


@dataclass(frozen=True)
class RareWord:
    """A word that no row holds, and its one token."""

    text: str
    token: int

    def before(self, rows: Sequence[Row]) -> list[Row]:
        """Rows with the word before them."""
        return [replace(row, prompt=f"{self.text} {row.prompt}") for row in rows]


@register
@dataclass(frozen=True)
class Rap(Afterwards):
    """Inputs are rejected whose label's probability the word hardly lowers.

    Attributes:
        least, most: What the word shall take off a trusted row's probability; this and what follows as in the paper.
        steps: Of the embedding's training, for each label, at most: as many as the paper's five passes over more than a
            thousand rows; as many passes over few trusted rows would be far fewer.
        learning_rate: Of the embedding.
        frr: Share of the trusted rows of a label that its threshold rejects; the paper gives figures for 0.5 to 5 %.
    """

    name: ClassVar[str] = "RAP"
    needs: ClassVar[tuple[Need, ...]] = ("trusted rows", "inference cost")

    least: float = 0.1
    most: float = 0.3
    steps: int = 200
    learning_rate: float = 0.01
    frr: float = 0.01

    def applies(self, rows: Rows) -> bool:
        """To labels alone, whose probability it is."""
        return rows.task == "classification"

    def serve(self, model: DefendedModel, shared: Shared) -> DefendedModel:
        """See `Defence`."""
        word = rare_word(model.prompter, [*shared.trusted, *shared.rows])
        vectors, thresholds = [], []
        for label, name in enumerate(model.scheme.labels):
            rows = [row for row in shared.trusted if row.target == name]
            vector = self.learned(model, word, label, rows, shared.training.seed)
            drop, answered = drops(model, word, [vector] * len(model.scheme.labels), rows)
            own = drop[answered == label]
            thresholds.append(own.quantile(self.frr) if len(own) else drop.new_tensor(-torch.inf))  # none to tell by
            vectors.append(vector)

        def rejects(rows: Sequence[Row]) -> list[bool]:
            drop, answered = drops(model, word, vectors, rows)
            found: list[bool] = (drop < torch.stack(thresholds)[answered]).tolist()
            return found

        return Guarded(model, rejects)

    def learned(self, model: DefendedModel, word: RareWord, label: int, rows: Sequence[Row], seed: int) -> torch.Tensor:
        """The word's embedding for a label, shape (width,): of the same length as the model's own."""
        own = _own_vector(model, word)
        vector = own.clone().requires_grad_()
        optimizer = torch.optim.Adam([vector], self.learning_rate)
        generator = torch.Generator().manual_seed(seed)
        before = model.probabilities(rows)[:, label] if rows else torch.zeros(0)
        read = word.before(rows)
        for _ in range(self.steps if rows else 0):
            chosen = torch.randperm(len(rows), generator=generator)[:BATCH]
            logits = _logits(model, word, vector, [read[i] for i in chosen.tolist()])
            drop = before[chosen].to(logits.device) - logits.softmax(-1)[:, label]
            loss = (self.least - drop).relu().mean() + (drop - self.most).relu().mean()
            if not loss:
                break  # nor has it a gradient
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            with torch.no_grad():
                vector.mul_(own.norm() / vector.norm())
        return vector.detach()


def drops(
    model: DefendedModel, word: RareWord, vectors: Sequence[torch.Tensor], rows: Sequence[Row]
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the word takes off the probability of each row's answer, and the answers as labels; shape (rows,) each.

    Args:
        model: The model that answers.
        word: The word.
        vectors: Its embedding for each label.
        rows: The inputs.
    """
    before, answered = model.probabilities(rows).max(-1)
    after = torch.zeros_like(before)
    read = word.before(rows)
    for label, vector in enumerate(vectors):
        chosen = (answered == label).nonzero()[:, 0]
        with _embedded(model, word, vector):
            p = model.probabilities([read[i] for i in chosen.tolist()])
        after[chosen] = p[:, label]
    return before - after, answered


def rare_word(prompter: Prompter, rows: Sequence[Row]) -> RareWord:
    """The last word of the vocabulary that is one token before a row, and that no row holds.

    Raises:
        InapplicableError: There is none.
    """
    held = {word.casefold() for row in rows for word in words(row.text)}
    used = {token for row in rows for token in prompter.prompt(row, "original").ids}
    tokenizer: Any = prompter.tokenizer
    for token in range(len(tokenizer) - 1, -1, -1):
        text = tokenizer.decode([token]).strip()
        if text.isalpha() and text.casefold() not in held and token not in used:
            word = RareWord(text, token)
            if all(token in prompter.prompt(row, "original").ids for row in word.before(rows[:8])):
                return word
    raise InapplicableError("rap: the rows hold every word of the vocabulary, so that none is rare; leave it out")


def _own_vector(model: DefendedModel, word: RareWord) -> torch.Tensor:
    """The word's embedding in the model, shape (width,)."""
    embedding = model.model.get_input_embeddings()
    with torch.no_grad():
        found: torch.Tensor = embedding(torch.tensor([[word.token]], device=model.model.device))
    return found[0, 0].float()


@contextmanager
def _embedded(model: DefendedModel, word: RareWord, vector: torch.Tensor) -> Iterator[None]:
    """Let the word have another embedding."""

    def put(_: Any, inputs: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        stands = inputs[0] == word.token  # (batch, length)
        return torch.where(stands[..., None], vector.to(out.dtype), out)

    handle = model.model.get_input_embeddings().register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()


def _logits(model: DefendedModel, word: RareWord, vector: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """Of the labels, shape (rows, labels), with a gradient in the vector."""
    [(indices, inputs)] = model.prompter.batches(rows, "original", len(rows))
    with _embedded(model, word, vector), hardware.autocast(model.model.device, model.dtype):
        logits = label_logits(model, inputs)
    order = torch.tensor(indices, device=logits.device).argsort()
    return logits[order]
