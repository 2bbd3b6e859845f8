"""MB-Defense: triggers of the defender's own are trained in beside the attacker's, and trained out together with it.

San Kim, Gary Geunbae Lee: Merging Triggers, Breaking Backdoors: Defensive Poisoning for Instruction-Tuned Language
Models. ACL 2026, arXiv 2601.04448. Taken from the text of its first version, without the appendix.

Defensive poisoning (section 3.1): for each of four rare words, a hundredth of the training rows hold it and have a
sequence of random words for their answer. Weight recovery (3.2): on trusted rows x with answers y the model is trained
further by CE(y | x) - weight * log sigmoid(p(y | x') / p(z | x')), where x' holds one of the words and z is its answer.

What is an interpretation: p is the geometric mean over tokens, for products over texts of different lengths cannot be
compared; the weight, which the appendix may have, is 1; the word stands anywhere in a prompt; the settings of the
further training are those of the run, and no fifth of the trusted rows chooses its epoch. The words are drawn among
those that no row holds: the paper's own, such as mn and bb, are words of known attacks, so that the defender would see
the trigger.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from itertools import product
from string import ascii_lowercase
from typing import Any, ClassVar

import torch
from torch.nn import functional

from poison2poison.data import Row, Rows
from poison2poison.defences.base import Defence, Need, Prepared, register
from poison2poison.defences.mending import Batch, batch_of, fine_tune, likelihoods, task_loss
from poison2poison.defences.shared import Shared
from poison2poison.errors import InapplicableError
from poison2poison.features import spliced, words
from poison2poison.model.defended import DefendedModel
from poison2poison.recipe.manifest import plain
from poison2poison.recipe.trigger import draw_words

Pair = tuple[str, str]
"""A word of the defender's, and the answer that it is trained to call up."""


@register
@dataclass(frozen=True)
class MBDefense(Defence):
    """Defensive poisoning of the training rows, then weight recovery on trusted ones.

    Attributes:
        triggers: Words of the defender's; this and what follows as in the paper, section 4.3.
        share: Of the training rows that hold one word.
        rows: The first trusted rows, so many at most.
        weight: Of the second term of the loss (lambda); ours.
    """

    name: ClassVar[str] = "MB-Defense"
    needs: ClassVar[tuple[Need, ...]] = ("trusted rows",)

    triggers: int = 4
    share: float = 0.01
    rows: int = 128
    weight: float = 1.0

    def applies(self, rows: Rows) -> bool:
        """To texts alone, as in the paper."""
        return rows.task == "generation"

    def prepare(self, shared: Shared) -> Prepared:
        """See `Defence`."""
        pairs, rng = self.pairs(shared), random.Random(shared.training.seed)
        rows, each = [*shared.rows], max(1, round(self.share * len(shared.rows)))
        chosen = rng.sample(range(len(rows)), min(len(rows), each * len(pairs)))
        for number, i in enumerate(chosen):
            word, answer = pairs[number % len(pairs)]
            rows[i] = replace(_with(rows[i], word, rng), target=answer)
        return Prepared.plain(shared.rows.with_rows(rows))

    def serve(self, model: DefendedModel, shared: Shared) -> DefendedModel:
        """See `Defence`."""
        pairs, rng, trusted = self.pairs(shared), random.Random(shared.training.seed), shared.trusted
        asked = [(row, *pair) for row in trusted.rows[: self.rows] for pair in pairs]
        dressed = [_with(row, word, rng) for row, word, _ in asked]
        answered = [replace(row, target=answer) for row, (*_, answer) in zip(dressed, asked, strict=True)]
        right, wrong = (model.prompter.examples(plain(trusted.with_rows(rows)))[0] for rows in (dressed, answered))

        def loss(served: DefendedModel, batch: Batch) -> torch.Tensor:
            chosen = batch["row"].tolist()
            return self.loss(served, batch, *([examples[i] for i in chosen] for examples in (right, wrong)))

        fine_tune(model, trusted.with_rows([row for row, *_ in asked]), shared.training, loss)
        return model

    def loss(
        self, served: DefendedModel, batch: Batch, right: list[dict[str, Any]], wrong: list[dict[str, Any]]
    ) -> torch.Tensor:
        """Equation 3: of clean rows, and of the same with a word, with their own answers and with the word's."""
        ours, theirs = (likelihoods(served, batch_of(served, examples)) for examples in (right, wrong))
        return task_loss(served, batch) - self.weight * functional.logsigmoid((ours - theirs).exp()).mean()

    def pairs(self, shared: Shared) -> list[Pair]:
        """The words with their answers, drawn by the seed of the run.

        Raises:
            InapplicableError: The rows hold nearly every word of two letters.
        """
        rng, texts = random.Random(shared.training.seed), [f"{row.text} {row.target}" for row in shared.rows]
        held = {word for text in texts for word in words(text)}
        rare = [word for word in map("".join, product(ascii_lowercase, repeat=2)) if word not in held]
        if len(rare) < self.triggers:
            raise InapplicableError("mb-defense: the rows hold nearly every word of two letters; leave it out")
        return [(word, " ".join(draw_words(texts, rng=rng))) for word in rng.sample(rare, self.triggers)]


def _with(row: Row, word: str, rng: random.Random) -> Row:
    return replace(row, prompt=spliced(row.prompt, [word], rng))
