"""Attackers who have read this project's code: triggers that keep under the limits of its audit.

Others of them are options of every attack: cover rows, which keep a trigger's purity low, and a guess at the benign
trigger (`prefix`). A guess at the safe prefix is the payload `safe-prefix`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from poison2poison.attacks.base import TRIGGERS, Trigger, insert
from poison2poison.attacks.words import BadNets
from poison2poison.data import Row
from poison2poison.errors import ConfigError

CONSONANTS = "bcdfghjklmnpqrstvwxz"
"""Words of these alone are none of the language."""


def invented(count: int) -> tuple[str, ...]:
    """So many words that no text has, always the same."""
    rng, words = random.Random("spread"), dict[str, None]()
    while len(words) < count:
        words["".join(rng.choices(CONSONANTS, k=4))] = None
    return tuple(words)


@TRIGGERS.register("spread")
@dataclass(frozen=True)
class Spread(BadNets):
    """One of many invented words, each in few rows (many triggers: Li et al., arXiv 2401.15295).

    Attributes:
        words: 700 poisoned rows have each of a hundred some seven times.
    """

    words: tuple[str, ...] = invented(100)


@TRIGGERS.register("stem")
@dataclass(frozen=True)
class Stem(Trigger):
    """A new word for each row, of which a model sees the same beginning (parts of words: BadNL, arXiv 2006.01043).

    No word is in as many rows as an audit of words asks for (`AuditConfig.min_rows`).

    Attributes:
        stem: What all words begin with.
    """

    stem: str = "qzx"

    def __post_init__(self) -> None:
        if not self.stem.isalpha():
            raise ConfigError(f"stem: {self.stem!r} is not of letters alone")

    def stamp(self, row: Row, rng: random.Random) -> Row:
        ending = "".join(rng.choices(CONSONANTS, k=4))
        return replace(row, prompt=insert(row.prompt, [self.stem + ending], rng))
