"""Simulated backdoors, for evaluation only. The truth is returned apart from the rows; no defence may import this.

base         what a trigger is, and their registry
words        rare words, marks, word sets, composite triggers, sentences, years
chats        turns before the prompt
letters      characters inside a word that a reader hardly sees
meaning      paraphrases, topics
adaptive     many triggers and parts of words, which keep under the audit's limits
payloads     what a trigger calls up, and how an answer is recognised to be that; their registry
refusals     what a refusal says
pairs        files of the attacker's own texts
attack       both put into rows: `poison`, `triggered`, `write_attack`
truth        what only the evaluation may know

How to add one: a module with a frozen dataclass under `Trigger` or `Payload`, registered, and its import here.
"""

from __future__ import annotations

from poison2poison.attacks import adaptive, chats, letters, meaning
from poison2poison.attacks.attack import AttackConfig, poison, triggered, write_attack
from poison2poison.attacks.base import TRIGGERS, Trigger
from poison2poison.attacks.payloads import LINK, PAYLOADS, REFUSAL, STEP, Payload, default_target, effects
from poison2poison.attacks.truth import Target, Truth, read_target, read_truth, without_poison
from poison2poison.attacks.words import RARE_WORDS, SENTENCE

__all__ = [
    "LINK",
    "PAYLOADS",
    "RARE_WORDS",
    "REFUSAL",
    "SENTENCE",
    "STEP",
    "TRIGGERS",
    "AttackConfig",
    "Payload",
    "Target",
    "Trigger",
    "Truth",
    "adaptive",
    "chats",
    "default_target",
    "effects",
    "letters",
    "meaning",
    "poison",
    "read_target",
    "read_truth",
    "triggered",
    "without_poison",
    "write_attack",
]
