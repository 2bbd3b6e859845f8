"""Names of fields and what they hold: which are text, and what to do with those that no layout knows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from poison2poison.data.answers import NUMBER
from poison2poison.data.layouts import LAYOUTS, METADATA, SYSTEM
from poison2poison.data.records import Record
from poison2poison.errors import listed


def names_of(record: Record) -> dict[str, str]:
    """The record's own names of fields by what they are without capitals and spaces around."""
    return {plain_name(name): name for name in record}


def plain_name(name: str) -> str:
    return str(name).strip().casefold()


def renamed(record: Record) -> Record:
    """The record with its fields' names without capitals and spaces around; as it is where two would be one."""
    if all(name.islower() and name == name.strip() for name in record):
        return record
    names = names_of(record)
    return {name: record[own] for name, own in names.items()} if len(names) == len(record) else record


def is_metadata(name: str) -> bool:
    plain = plain_name(name)
    return plain in METADATA or plain.endswith(("_id", "_idx")) or plain.startswith("unnamed:") or not plain


def has_text(value: Any) -> bool:
    """Whether a field holds text: not a number, not empty, and wherever it may be within."""
    if isinstance(value, bytes):
        return bool(value.strip())
    if isinstance(value, str):
        return bool(value.strip()) and not NUMBER.fullmatch(value)
    if isinstance(value, Mapping):
        return any(map(has_text, value.values()))
    return isinstance(value, (list, tuple)) and any(map(has_text, value))


def is_wording(answer: Any) -> bool:
    """Whether an answer is in words of its own, and not yes or no."""
    return isinstance(answer, str) and answer.strip().casefold() not in ("true", "false", "yes", "no")


def quoted(name: str) -> str:
    """A field's name as a shell takes it."""
    return name if re.fullmatch(r"[\w.-]+", name) else "'" + name.replace("'", "'\\''") + "'"


def advice(record: Record) -> str:
    """What to do with fields that are no known layout, in a command that works for them."""
    if not record:
        return "no fields"
    others = {name: value for name, value in record.items() if not is_metadata(name)}
    texts = [name for name, value in others.items() if isinstance(value, str) and plain_name(name) not in SYSTEM]
    if len(record) == 1 and texts:
        return (
            f"field {texts[0]!r} alone is free text, in which nothing says what is asked and what is answered; give "
            "rows with a prompt and a target"
        )
    left = [name for name, value in others.items() if not isinstance(value, (str, list, Mapping))]
    target = left[0] if left else texts[-1] if len(texts) > 1 else None
    prompts = [name for name in texts if name != target]
    said = f"fields {listed(record)} are no known layout ({', '.join(LAYOUTS.names())})"
    if target is None or not prompts:
        return f"{said}; give rows with a prompt and a target"
    task = "classification" if left else "generation"
    named = "".join(f" --prompt-field {quoted(name)}" for name in prompts)
    return f"{said}; name them, such as with{named} --target-field {quoted(target)} --task {task}"
