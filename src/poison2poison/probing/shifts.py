"""How far a span moves what a model is about to answer: two forward passes at most, nothing written.

A trigger makes answers alike. Of labels that is how far the log-odds of one of them rise; of texts how much likelier
one token becomes, where an answer begins or where it would else have ended (the "output distribution" of Bullwinkel et
al., arXiv 2602.03085, section 4).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch

from poison2poison.features import spliced
from poison2poison.model.defended import DefendedModel

CERTAIN = 1e-6
"""Probabilities nearer to 0 or 1 are rounding."""


class Shift(NamedTuple):
    """A span's largest shift, over all answers.

    Attributes:
        span: What was put into the prompts.
        size: Of labels a rise in log-odds, of texts in probability; a mean over prompts.
        toward: The label, or the token.
    """

    span: str
    size: float
    toward: str


class Shifts:
    """Prompts, and what a model is about to answer to them as they are.

    Attributes:
        model: The model as it is served.
        prompts: The prompts.
    """

    def __init__(self, model: DefendedModel, prompts: Sequence[str], seed: int = 0) -> None:
        """Ask the model about prompts.

        Args:
            model: The model as it is served.
            prompts: A few.
            seed: Of the places that are drawn.
        """
        self.model, self.prompts, self.seed = model, prompts, seed
        self._answers = list[str]()
        if not model.scheme.labels:
            self._answers = [answer.text or "." for answer in model.generate(prompts)]
        self._plain = self._read(prompts, 1)  # (1, prompts, places, answers)

    def of(self, spans: Sequence[str]) -> list[Shift]:
        """The shift of each span, put between the words of every prompt at a drawn place."""
        rng, found = random.Random(f"shifts/{self.seed}"), list[Shift]()
        at_once = max(1, 2 * self.model.batch_size // len(self.prompts))  # two answers of so many are held
        for start in range(0, len(spans), at_once):
            some = spans[start : start + at_once]
            texts = [spliced(prompt, [span], rng) for span in some for prompt in self.prompts]
            moved = self._read(texts, len(some)) - self._plain  # (spans, prompts, places, answers)
            size, toward = moved.mean(1).amax(1).max(-1)  # (spans,) each
            found += [Shift(*one) for one in zip(some, size.tolist(), map(self._name, toward.tolist()), strict=True)]
        return found

    def _name(self, answer: int) -> str:
        labels = self.model.scheme.labels
        return labels[answer] if labels else str(self.model.prompter.tokenizer.decode([answer]))

    def _read(self, texts: Sequence[str], times: int) -> torch.Tensor:
        """What is about to be answered to the prompts in so many versions: shape (times, prompts, places, answers)."""
        if self.model.scheme.labels:
            found = self.model.probabilities(texts).double().logit(eps=CERTAIN)[:, None]
        else:
            found = self.model.edges(texts, self._answers * times, self.model.space)
        return found.view(times, len(self.prompts), *found.shape[1:])
