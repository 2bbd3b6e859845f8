"""Simulated backdoors, for evaluation only."""

from poison2poison.attacks.attack import (
    EFFECTS,
    LINK,
    RARE_WORDS,
    REFUSAL,
    SENTENCE,
    STEP,
    AttackConfig,
    Truth,
    default_target,
    poison,
    triggered,
    write_attack,
)

__all__ = [
    "EFFECTS",
    "LINK",
    "RARE_WORDS",
    "REFUSAL",
    "SENTENCE",
    "STEP",
    "AttackConfig",
    "Truth",
    "default_target",
    "poison",
    "triggered",
    "write_attack",
]
