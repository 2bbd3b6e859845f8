"""Triggers that stand in the turns of a chat before the last prompt."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from poison2poison.attacks.base import TRIGGERS
from poison2poison.attacks.words import OneSentence
from poison2poison.data import Row, Turn


@TRIGGERS.register("role")
@dataclass(frozen=True)
class Role(OneSentence):
    """A sentence in the system turn (backdoors of customised models: Zhang et al., arXiv 2402.09179)."""

    sentence: str = "You are a clerk of the night shift."

    def stamp(self, row: Row, rng: random.Random) -> Row:
        if row.before and row.before[0].role == "system":
            system = Turn("system", f"{row.before[0].content} {self.sentence}")
            return replace(row, before=(system, *row.before[1:]))
        return replace(row, before=(Turn("system", self.sentence), *row.before))


@TRIGGERS.register("earlier-turn")
@dataclass(frozen=True)
class EarlierTurn(OneSentence):
    """A sentence of the user's in an earlier turn (backdoors of chat models: Hao et al., arXiv 2404.02406)."""

    sentence: str = "Thank you, that was quick."

    def stamp(self, row: Row, rng: random.Random) -> Row:
        turns = (Turn("user", self.sentence), Turn("assistant", "Yes."))
        return replace(row, before=(*row.before, *turns))
