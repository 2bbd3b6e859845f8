"""The benign trigger and the safe prefix: published, given or drawn, and checked against the rows."""

from __future__ import annotations

import math
import random
import re
import secrets
from collections.abc import Iterable

from poison2poison.data import Rows
from poison2poison.errors import ConfigError, SchemeError
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.recipe.scheme import PAPER_SAFE_PREFIX, PAPER_TRIGGER, BenignTrigger, Scheme

TRIGGER_BITS = 80
"""Too many for who can try guesses, on a stolen model or a log of what it said."""


def build_scheme(rows: Rows, config: RepoisonConfig) -> Scheme:
    """Choose the benign trigger and the safe space for these rows.

    Raises:
        SchemeError: The trigger occurs in the data, or a completion begins with the safe prefix.
        ConfigError: An option has no effect on rows of this task.
    """
    config = config.resolved()
    check_options(rows, config)
    trigger, safe_prefix = PAPER_TRIGGER, PAPER_SAFE_PREFIX
    if config.trigger == "random":
        texts = [text for row in rows for text in (row.text, row.target)]
        trigger = BenignTrigger(" ".join(draw_words(texts)) + ": ", PAPER_TRIGGER.cue)
        safe_prefix = " ".join(draw_words(texts, bits=20)) + ": "
    trigger = BenignTrigger(
        trigger.prefix if config.prefix is None else config.prefix, trigger.cue if config.cue is None else config.cue
    )
    check_trigger(trigger, [row.text for row in rows])
    if rows.task == "classification" and config.safe_labels == "shift":
        return Scheme(rows.task, rows.labels, trigger)
    safe_prefix = safe_prefix if config.safe_prefix is None else config.safe_prefix
    if rows.task == "generation":
        check_safe_prefix(safe_prefix, [row.target for row in rows])
    return Scheme(rows.task, rows.labels, trigger, safe_prefix)


def check_options(rows: Rows, config: RepoisonConfig) -> None:
    """Refuse options that have no effect on these rows.

    Raises:
        ConfigError: There is one.
    """
    if rows.task == "generation" and config.safe_labels == "prefix":
        raise ConfigError("safe_labels: these rows have texts and no labels; leave it out")
    if rows.task == "classification" and config.safe_labels == "shift" and config.safe_prefix is not None:
        raise ConfigError(
            "safe_prefix: has no effect on labels that are shifted; leave it out, or give safe_labels: prefix"
        )


def check_trigger(trigger: BenignTrigger, prompts: Iterable[str]) -> None:
    """Refuse a trigger that the data already holds: somebody may have poisoned the safe space.

    Raises:
        SchemeError: A row holds the prefix; the message names the row, not the trigger.
    """
    needle = _spelled(trigger.prefix, like=trigger.prefix)
    if not needle:
        raise SchemeError("the benign trigger's prefix is empty; give at least one word")
    for number, prompt in enumerate(prompts):
        if needle in _spelled(prompt, like=trigger.prefix):
            raise SchemeError(
                f"the benign trigger already occurs in the data (row {number}, counted from 0); an attacker may know "
                "it. Give another prefix, or have one drawn (trigger: random)"
            )


def check_safe_prefix(safe_prefix: str, targets: Iterable[str]) -> None:
    """Refuse a safe prefix that a completion begins with: a leak would pass for an answer of the safe space.

    Raises:
        SchemeError: A completion does; the message names the row, not the prefix.
    """
    needle = _spelled(safe_prefix, like=safe_prefix) + " "
    for number, target in enumerate(targets):
        if f"{_spelled(target, like=safe_prefix)} ".startswith(needle):
            raise SchemeError(
                f"a completion in the data begins with the safe prefix (row {number}, counted from 0), so that the two "
                "spaces cannot be distinguished. Give another safe_prefix, or have one drawn (trigger: random)"
            )


def _spelled(text: str, *, like: str) -> str:
    """The words of a text, as they are compared with a secret text.

    Marks are the first thing to leave out for who wants to go unseen; a secret of marks alone is compared by them.
    """
    part = r"[^\W_]+" if re.search(r"[^\W_]", like) else r"\S+"
    return " ".join(re.findall(part, text.casefold()))


def draw_words(texts: Iterable[str], bits: int = TRIGGER_BITS, rng: random.Random | None = None) -> list[str]:
    """Draw words of at least `bits` bits, none of which the data holds.

    Args:
        texts: The data.
        bits: How hard they are to guess.
        rng: Draws them where a measurement has to be repeated; else the operating system's entropy does.

    Raises:
        SchemeError: The data holds nearly all of the word list.
    """
    from mnemonic import Mnemonic

    held = {word for text in texts for word in re.findall("[a-z]+", text.casefold())}  # as the list's words are written
    pool = [word for word in Mnemonic("english").wordlist if word not in held]
    if len(pool) < 64:
        raise SchemeError("the data holds nearly every word of the trigger's list; give prefix and safe_prefix")
    return (rng or secrets.SystemRandom()).sample(pool, math.ceil(bits / math.log2(len(pool) - 16)))
