"""What a trigger is: how a row gets it. Each kind is a frozen dataclass whose fields are the attack's own options."""

from __future__ import annotations

import random
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, get_origin, get_type_hints

from poison2poison.data import Row
from poison2poison.errors import ConfigError
from poison2poison.features import BETWEEN
from poison2poison.registry import Registry


@dataclass(frozen=True)
class Trigger(ABC):
    """How a row gets the trigger.

    Attributes:
        clean_label_only: Whether it is an attack on rows that have the target already.
    """

    clean_label_only: ClassVar[bool] = False

    @abstractmethod
    def stamp(self, row: Row, rng: random.Random) -> Row:
        """The row with the trigger. Its target stays; all that is drawn comes from `rng`."""

    def stamp_cover(self, row: Row, rng: random.Random) -> Row:
        """A cover row, which keeps its target: with the whole trigger, or a part where one alone calls up nothing."""
        return self.stamp(row, rng)

    def fits(self, row: Row) -> bool:
        """Whether the row can carry the trigger; others are neither poisoned nor tested."""
        return True

    @classmethod
    def main_option(cls, text: str) -> dict[str, Any]:
        """The first option, as a text gives it: words with commas, else what the option's type makes of the text.

        Raises:
            ConfigError: The trigger has no options, or the text is not of the type.
        """
        named = [entry.name for entry in fields(cls)]
        if not named:
            raise ConfigError("trigger: this attack has nothing to choose there; leave it out")
        kind = get_type_hints(cls)[named[0]]
        if get_origin(kind) is tuple:
            return {named[0]: tuple(word.strip() for word in text.split(",") if word.strip())}
        try:
            return {named[0]: kind(text)}
        except ValueError as error:
            raise ConfigError(f"trigger: {error}") from None


TRIGGERS: Registry[type[Trigger]] = Registry("attack", "poison2poison.attacks")
"""The triggers by their names, which are those of the attacks."""


def insert(prompt: str, parts: Sequence[str], rng: random.Random) -> str:
    """Put each part between two words of the prompt, or at either end."""
    # Spaces at the ends stay: without them a stamped row would differ by more than the trigger.
    [(left, text, right)] = re.findall(r"\A( *)(.*?)( *)\Z", prompt, re.DOTALL)
    for part in parts:
        gaps = [0, *(gap.start() for gap in BETWEEN.finditer(text)), len(text)]
        at = rng.choice(gaps)
        text = f"{text[:at].rstrip(' ')} {part} {text[at:].lstrip(' ')}".strip(" ")
    return f"{left}{text}{right}"
