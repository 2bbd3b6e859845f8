"""Served models that a defence has put something before: a detector, or other words for every input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from transformers import LogitsProcessor

from poison2poison.data import Row, as_row
from poison2poison.errors import DataError, told
from poison2poison.model.defended import Answer, DefendedModel, Inputs
from poison2poison.model.prompting import Batch
from poison2poison.types import Space

Rejects = Callable[[Sequence[Row]], Sequence[bool]]
"""Which inputs a detector takes for triggered ones."""


class _Around(DefendedModel):
    """A served model that shares all parts of another one."""

    def __init__(self, model: DefendedModel) -> None:
        vars(self).update(vars(model))


class Guarded(_Around):
    """A classifier that gives no answer to inputs which a detector rejects.

    A rejected input has no text in its answer. So a triggered one counts for no attack and no right answer, and a clean
    one for a wrong answer. The shares of rejected inputs are figures of their own: of clean rows the papers' false
    rejection rate (FRR), of triggered ones 1 less their false acceptance rate (FAR). The papers count both among the
    inputs that the model gives one label, here they are of all.
    """

    def __init__(self, model: DefendedModel, rejects: Rejects) -> None:
        super().__init__(model)
        self.rejects = rejects

    def classify(self, texts: Inputs, *, alarm: bool = False) -> list[Answer]:
        """As of `DefendedModel`, with `rejected` in the answers."""
        answers = super().classify(texts, alarm=alarm)
        rejected = self.rejects([as_row(one) for one in texts])
        return [
            replace(answer, text=None if gone else answer.text, rejected=bool(gone))
            for answer, gone in zip(answers, rejected, strict=True)
        ]


class Rewritten(_Around):
    """A served model that reads other words for each input. Perplexity is that of the inputs as they are."""

    def __init__(self, model: DefendedModel, instead: Mapping[str, str]) -> None:
        super().__init__(model)
        self.instead = instead

    def _dressed(self, asked: Inputs, space: Space) -> Iterator[Batch]:
        yield from super()._dressed([self._rewritten(as_row(one)) for one in asked], space)

    def _rewritten(self, row: Row) -> Row:
        if row.prompt not in self.instead:
            raise DataError(f"paraphrases: there is none of the input {told(row.prompt)}; add one for every test row")
        return replace(row, prompt=self.instead[row.prompt])


class Decoded(_Around):
    """A served model that writes with a processor of the scores of its next tokens. It does not stream so."""

    def __init__(self, model: DefendedModel, processor: LogitsProcessor) -> None:
        super().__init__(model)
        self.processor = processor

    def generate(self, prompts: Inputs, **options: Any) -> list[Answer]:
        """As of `DefendedModel`."""
        more = options.pop("logits_processor", ())
        return super().generate(prompts, logits_processor=[self.processor, *more], **options)
