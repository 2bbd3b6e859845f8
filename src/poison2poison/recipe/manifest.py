"""Rows as they are trained on, and the record of what was done to which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from poison2poison.data import Row, Rows, Turn, all_text
from poison2poison.recipe.scheme import Scheme
from poison2poison.types import Space

Action = Literal["keep", "replace", "append", "splice", "correct", "confirm", "off-target"]


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """A row as it is trained on.

    Attributes:
        row: Index of the row that it was made from.
        space: The space that it is in.
        action: keep (in the original space); replace, append (S); or a counterexample: splice (suspect or weak
            spans put in), correct (a row of a style with its likely label), confirm and off-target (rows that have a
            suspect span or style by themselves, with their own label).
        body: Its prompt without the benign trigger.
        target: Its label or text.
        before: System and earlier turns of a chat.
        after: Turns of a chat between the body's and the answer.
    """

    row: int
    space: Space
    action: Action
    body: str
    target: str
    before: tuple[Turn, ...] = ()
    after: tuple[Turn, ...] = ()

    @property
    def text(self) -> str:
        """All that a model reads before it answers, without the benign trigger."""
        return all_text(self.before, self.body, self.after)


def training_row(number: int, row: Row, space: Space, action: Action) -> TrainingRow:
    """A row as it is, in a space."""
    return TrainingRow(number, space, action, row.prompt, row.target, row.before, row.after)


def plain(rows: Rows) -> list[TrainingRow]:
    """The rows as they are: fine-tuning without a defence."""
    return [training_row(i, row, "original", "keep") for i, row in enumerate(rows)]


def manifest(training: Sequence[TrainingRow], scheme: Scheme) -> list[dict[str, Any]]:
    """What was done to which row; it holds no trigger."""
    entries = []
    for row in training:
        entry: dict[str, Any] = {"row": row.row, "action": row.action, "space": row.space}
        if scheme.labels:
            entry |= {"label": row.target, "class": scheme.class_of(row.target, row.space)}
        entries.append(entry)
    return entries
