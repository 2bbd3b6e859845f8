"""Rows that were read: what they are in one line, whether they can be trained and measured on, and as records."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import asdict
from typing import Any

from poison2poison.data.row import Row, Rows, Turn
from poison2poison.errors import SHOWN, DataError, more, told


def as_records(rows: Rows) -> list[dict[str, Any]]:
    """The rows as plain records: text/label for labels, prompt/completion for texts, messages where one is a chat."""
    classes = rows.task == "classification"
    chats = any(row.before or row.after for row in rows)
    if chats:
        return [_messages(row, classes=classes) for row in rows]
    prompt, target = ("text", "label") if classes else ("prompt", "completion")
    return [{prompt: row.prompt, target: row.target} for row in rows]


def _messages(row: Row, *, classes: bool) -> dict[str, Any]:
    """A row as a chat: with its label beside it, or its answer as the last turn."""
    turns = [*row.before, Turn("user", row.prompt), *row.after]
    if not classes:
        turns.append(Turn("assistant", row.target))
    record: dict[str, Any] = {"messages": [asdict(turn) for turn in turns]}
    if classes:
        record["label"] = row.target
    return record


def summary(rows: Rows) -> str:
    """What was read, in one line: task, layout and fields, rows, labels with their rows, lengths, what was left out."""
    if not len(rows):
        return f"{rows.source}: {rows.task}, layout {rows.layout}; 0 rows"
    parts = [f"{rows.source}: {rows.task}, layout {rows.layout}", f"{len(rows)} rows"]
    if rows.labels:
        parts.append(_labels(rows))
    low, high, median = _range([row.text for row in rows])
    parts.append(f"prompts of {low} to {high} characters, median {median}")
    if not rows.labels:
        low, high, median = _range([row.target for row in rows])
        parts.append(f"targets of {low} to {high}, median {median}")
    return "; ".join([*parts, *rows.notes])


def _labels(rows: Rows) -> str:
    counts = Counter(row.target for row in rows)
    named = ", ".join(f"{told(label)} {counts[label]}" for label in rows.labels[:SHOWN])
    number = len(rows.labels)
    return f"{number} labels ({named}{more(number)})"


def _range(texts: list[str]) -> tuple[int, int, int]:
    """Characters of the shortest text, the longest, and the median."""
    lengths = [len(text) for text in texts]
    return min(lengths), max(lengths), round(statistics.median(lengths))


def check_trainable(rows: Rows) -> None:
    """Refuse rows that teach nothing.

    Raises:
        DataError: A classification has one class only.
    """
    found = {row.target for row in rows}
    if rows.task == "classification" and len(found) < 2:
        raise DataError(
            f"{rows.source}: all rows have the label {told(rows[0].target)}; a classifier needs two or more"
        )


def check_apart(training: Rows, other: Rows, what: str) -> str:
    """Refuse rows to measure on that a model is trained on.

    Those which the training rows have several times may be there by chance.

    Args:
        training: The training rows.
        other: Rows to measure on.
        what: What these are, such as `test`.

    Returns:
        How many of them are training rows, as a sentence; empty where none is.

    Raises:
        DataError: They are the training rows, or half of them are, and not by chance.
    """
    counts = Counter((row.text, row.target) for row in training)
    found = [counts[row.text, row.target] for row in other]
    shared = sum(count > 0 for count in found)
    once = found.count(1)
    if other.sha256 == training.sha256 or 2 * once >= len(other):
        raise DataError(
            f"{other.source}: {shared} of the {len(other)} {what} rows are training rows of {training.source}, which "
            "the model has seen; give others"
        )
    return f"{shared} of the {len(other)} {what} rows are training rows too" if shared else ""
