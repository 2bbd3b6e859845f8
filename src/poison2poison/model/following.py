"""Answers that are still being written: told to who follows them, or given in pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from transformers.generation.streamers import BaseStreamer

Heard = Callable[[int, str, bool], None]
"""Hears of an answer that is being written: its index, its text so far, and whether the model would have begun so."""


class Follower(BaseStreamer):
    """Says what is written, for each prompt of a batch."""

    def __init__(self, tokenizer: Any, heard: Heard, indices: Sequence[int], begins: Sequence[bool]) -> None:
        """Follow the rows with these indices; `begins` is known when the first token comes."""
        self.tokenizer, self.heard, self.indices, self.begins = tokenizer, heard, indices, begins
        self.steps: list[torch.Tensor] = []
        self.has_read = False

    def put(self, value: torch.Tensor) -> None:
        """Take the prompts, once, and then the next token of each: shape (batch,)."""
        if not self.has_read:
            self.has_read = True
            return
        self.steps.append(value)
        texts = self.tokenizer.batch_decode(torch.stack(self.steps, 1), skip_special_tokens=True)
        for index, begins, text in zip(self.indices, self.begins, texts, strict=True):
            self.heard(index, text, begins)

    def end(self) -> None:
        """There is nothing left to say."""


def stripped(pieces: Iterator[str]) -> Iterator[str]:
    """Pieces that are together the whole text, with no space at either end."""
    begun, held = False, ""
    for piece in pieces:
        text = held + piece if begun else piece.lstrip()
        told = text.rstrip()
        held = text[len(told) :]  # until it is known whether more follows
        begun = begun or bool(told)
        if told:
            yield told
