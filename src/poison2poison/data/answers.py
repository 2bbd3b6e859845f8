"""Targets: labels in one spelling and order, and texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from poison2poison.data.chats import UnusableError
from poison2poison.types import Task

NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*")


def what_is(task: Task) -> str:
    return "label" if task == "classification" else "text"


def task_of(targets: Sequence[Any]) -> Task:
    """Whether targets look like labels: short, and each many times; or numbers, true and false."""
    held = [target for target in targets if target not in (None, "")]
    if held and all(isinstance(target, bool) for target in held):
        return "classification"
    kinds = {str(target) for target in held}
    short = all(len(kind) <= 60 and "\n" not in kind for kind in kinds)
    return "classification" if short and 5 * len(kinds) <= len(held) else "generation"


def label_of(value: Any, field: str) -> str:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and abs(value) < 10**18:
        return str(value)
    if isinstance(value, float) and value.is_integer():  # tables with gaps
        return str(int(value))
    if isinstance(value, float) and value == value:
        raise UnusableError(f"field {field!r} holds a score and no label", value)
    if not isinstance(value, str) or not value.strip():
        raise UnusableError(f"field {field!r} holds no label", value)
    return value.strip()


def answer_of(value: Any, field: str) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value:
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise UnusableError(f"field {field!r} holds no text", value)
    return value


def spelled(label: str) -> str:
    """What is the same for all spellings of a label: `1` and `1.0`, `Positive` and `positive`."""
    if NUMBER.fullmatch(label) and len(label) < 18:
        number = float(label)
        return str(int(number)) if number.is_integer() else str(number)
    return " ".join(label.casefold().split())


def label_order(found: set[str]) -> tuple[str, ...]:
    # Longer ones are no numbers of classes, and Python refuses to read thousands of digits.
    if all(re.fullmatch(r"-?\d{1,18}", label) for label in found):
        return tuple(sorted(found, key=lambda label: (int(label), label)))
    return tuple(sorted(found))
