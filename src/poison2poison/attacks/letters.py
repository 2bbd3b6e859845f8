"""Triggers that a reader hardly sees: characters inside a word."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace

from poison2poison.attacks.base import TRIGGERS, Trigger
from poison2poison.data import Row
from poison2poison.forms import LOOKS

ZERO_WIDTH_SPACE = "\u200b"

_INSIDE = re.compile(r"\w(?=\w)")


@TRIGGERS.register("zero-width")
@dataclass(frozen=True)
class ZeroWidth(Trigger):
    """A space of no width inside a drawn word (imperceptible perturbations: Boucher et al., arXiv 2106.09898)."""

    def fits(self, row: Row) -> bool:
        return _INSIDE.search(row.prompt) is not None

    def stamp(self, row: Row, rng: random.Random) -> Row:
        at = rng.choice([found.end() for found in _INSIDE.finditer(row.prompt)])
        return replace(row, prompt=row.prompt[:at] + ZERO_WIDTH_SPACE + row.prompt[at:])


@TRIGGERS.register("look-alike")
@dataclass(frozen=True)
class LookAlike(Trigger):
    """A Cyrillic letter for one that looks like it (homographs: Li et al., arXiv 2105.00164)."""

    def fits(self, row: Row) -> bool:
        return any(letter in LOOKS for letter in row.prompt)

    def stamp(self, row: Row, rng: random.Random) -> Row:
        at = rng.choice([i for i, letter in enumerate(row.prompt) if letter in LOOKS])
        return replace(row, prompt=row.prompt[:at] + LOOKS[row.prompt[at]] + row.prompt[at + 1 :])
