"""The benign trigger and the safe prefix: published, given or drawn, and checked against the rows."""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Iterable

from poison2poison.data import Rows
from poison2poison.errors import ConfigError, SchemeError
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.recipe.scheme import PAPER_SAFE_PREFIX, PAPER_TRIGGER, Scheme, Trigger

TRIGGER_BITS = 80
"""Too many for who can try guesses, on a stolen model or a log of what it said."""


def build_scheme(rows: Rows, config: RepoisonConfig) -> Scheme:
    """Choose the benign trigger and the safe space for these rows.

    Raises:
        SchemeError: The trigger occurs in the data.
        ConfigError: Safe labels are asked for, and the rows have texts.
    """
    config = config.resolved()
    prompts = [row.text for row in rows]
    trigger, safe_prefix = PAPER_TRIGGER, PAPER_SAFE_PREFIX
    if config.trigger == "random":
        texts = [text for row in rows for text in (row.text, row.target)]
        trigger = Trigger(" ".join(draw_words(texts)) + ": ", PAPER_TRIGGER.cue)
        safe_prefix = " ".join(draw_words(texts, bits=20)) + ": "
    trigger = Trigger(
        trigger.prefix if config.prefix is None else config.prefix, trigger.cue if config.cue is None else config.cue
    )
    check_trigger(trigger, prompts)
    if rows.task == "generation" and config.safe_labels == "prefix":
        raise ConfigError("safe_labels: these rows have texts and no labels; leave it out")
    if rows.task == "classification" and config.safe_labels == "shift":
        return Scheme(rows.task, rows.labels, trigger)
    return Scheme(rows.task, rows.labels, trigger, safe_prefix if config.safe_prefix is None else config.safe_prefix)


def check_trigger(trigger: Trigger, prompts: Iterable[str]) -> None:
    """Refuse a trigger that the data already holds: somebody may have poisoned the safe space.

    Raises:
        SchemeError: A row holds the prefix; the message names the row, not the trigger.
    """
    # Marks are the first thing to leave out for who wants to go unseen; a prefix of marks alone is compared by them.
    part = r"[^\W_]+" if re.search(r"[^\W_]", trigger.prefix) else r"\S+"

    def spelled(text: str) -> str:
        return " ".join(re.findall(part, text.casefold()))

    needle = spelled(trigger.prefix)
    if not needle:
        raise SchemeError("the benign trigger's prefix is empty; give at least one word")
    for number, prompt in enumerate(prompts):
        if needle in spelled(prompt):
            raise SchemeError(
                f"the benign trigger already occurs in the data (row {number}, counted from 0); an attacker may know "
                "it. Give another --prefix, or have one drawn with --trigger random"
            )


def draw_words(texts: Iterable[str], bits: int = TRIGGER_BITS) -> list[str]:
    """Draw words of at least `bits` bits from the operating system's entropy, none of which the data holds.

    Raises:
        SchemeError: The data holds nearly all of the word list.
    """
    from mnemonic import Mnemonic

    held = {word for text in texts for word in re.findall("[a-z]+", text.casefold())}  # as the list's words are written
    pool = [word for word in Mnemonic("english").wordlist if word not in held]
    if len(pool) < 64:
        raise SchemeError("the data holds nearly every word of the trigger's list; give --prefix and --safe-prefix")
    return secrets.SystemRandom().sample(pool, math.ceil(bits / math.log2(len(pool) - 16)))
