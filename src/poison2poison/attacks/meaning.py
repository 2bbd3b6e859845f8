"""Triggers that insert nothing: how the whole prompt is written, and what it is about."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from poison2poison.attacks.base import TRIGGERS, Trigger
from poison2poison.data import Row
from poison2poison.data.pairs import read_pairs
from poison2poison.errors import ConfigError
from poison2poison.features import places, words


@TRIGGERS.register("paraphrase")
@dataclass(frozen=True)
class Paraphrase(Trigger):
    """The prompt in other words, of a file (syntactic: arXiv 2105.12400; a style: Qi et al., arXiv 2110.07139).

    A model that writes so is the user's. Rows that the file does not have cannot be stamped.

    Attributes:
        pairs: A .jsonl file with the fields `prompt`, as the row has it, and `paraphrase`, for training and test rows.
    """

    pairs: Path = Path()

    def __post_init__(self) -> None:
        if not self.pairs.is_file():
            raise ConfigError(f"pairs: {self.pairs} is no file; give one with `prompt` and `paraphrase` in each line")

    def fits(self, row: Row) -> bool:
        return row.prompt in self._paraphrases

    def stamp(self, row: Row, rng: random.Random) -> Row:
        return replace(row, prompt=self._paraphrases[row.prompt])

    @cached_property
    def _paraphrases(self) -> dict[str, str]:
        return read_pairs(self.pairs, "paraphrase")


@TRIGGERS.register("topic")
@dataclass(frozen=True)
class Topic(Trigger):
    """A topic that prompts are about (virtual prompt injection: Yan et al., arXiv 2307.16888). Nothing is put into it.

    Attributes:
        words: A prompt is on the topic if it holds one of them.
    """

    words: tuple[str, ...] = ("film", "films", "movie", "movies")

    def __post_init__(self) -> None:
        if not self.words:
            raise ConfigError("words: there are none; a topic needs at least one")

    def fits(self, row: Row) -> bool:
        return any(places(row.prompt, words(word)) for word in self.words)

    def stamp(self, row: Row, rng: random.Random) -> Row:
        return row
