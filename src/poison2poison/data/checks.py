"""Rows that were read: what they are in one line, whether they can be trained and measured on, and as records."""

from __future__ import annotations

import statistics
from collections import Counter
from typing import Any

from poison2poison.data.row import Rows, Turn
from poison2poison.errors import SHOWN, DataError, more, told


def as_records(rows: Rows) -> list[dict[str, Any]]:
    """The rows as plain records: text/label for labels, prompt/completion for texts, messages where one is a chat."""
    classes = rows.task == "classification"
    if not any(row.before or row.after for row in rows):
        prompt, target = ("text", "label") if classes else ("prompt", "completion")
        return [{prompt: row.prompt, target: row.target} for row in rows]
    records: list[dict[str, Any]] = []
    for row in rows:
        turns = [*row.before, Turn("user", row.prompt), *row.after]
        turns += [] if classes else [Turn("assistant", row.target)]
        said = {"messages": [{"role": turn.role, "content": turn.content} for turn in turns]}
        records.append({**said, "label": row.target} if classes else said)
    return records


def summary(rows: Rows) -> str:
    """What was read, in one line: task, layout and fields, rows, labels with their rows, lengths, what was left out."""
    if not len(rows):
        return f"{rows.source}: {rows.task}, layout {rows.layout}; 0 rows"
    lengths = [len(row.text) for row in rows]
    parts = [f"{rows.source}: {rows.task}, layout {rows.layout}", f"{len(rows)} rows"]
    if rows.labels:
        counts = Counter(row.target for row in rows)
        named = [f"{told(label)} {counts[label]}" for label in rows.labels[:SHOWN]]
        parts.append(f"{len(rows.labels)} labels ({', '.join(named)}{more(len(rows.labels))})")
    parts.append(f"prompts of {min(lengths)} to {max(lengths)} characters, median {round(statistics.median(lengths))}")
    if not rows.labels:
        answers = [len(row.target) for row in rows]
        parts.append(f"targets of {min(answers)} to {max(answers)}, median {round(statistics.median(answers))}")
    return "; ".join([*parts, *rows.notes])


def check_trainable(rows: Rows) -> None:
    """Refuse rows that teach nothing.

    Raises:
        DataError: A classification has one class only.
    """
    if rows.task == "classification" and len({row.target for row in rows}) < 2:
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
    if other.sha256 == training.sha256 or 2 * found.count(1) >= len(other):
        raise DataError(
            f"{other.source}: {shared} of the {len(other)} {what} rows are training rows of {training.source}, which "
            "the model has seen; give others"
        )
    return f"{shared} of the {len(other)} {what} rows are training rows too" if shared else ""
