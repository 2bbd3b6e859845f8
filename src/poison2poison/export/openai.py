"""OpenAI's fine-tuning service, and those that take its rows: chats, of which the service makes tokens.

Kept are trigger, safe label or safe prefix, and loss on the answer alone. Not kept: the tokens (their template and
tokenizer are their own), the cut of long rows, and the forced prefix and constraint at inference, where
`DefendedModel` cannot stand. So nothing here says whether the safe space is learned; ask the served model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from poison2poison.data import Turn
from poison2poison.export.base import EXPORTERS, Export, Exporter
from poison2poison.files import write_lines
from poison2poison.recipe.manifest import TrainingRow
from poison2poison.recipe.scheme import Scheme


@EXPORTERS.register("openai")
class OpenAI(Exporter):
    """rows.jsonl: one chat a line, `messages` of role and content."""

    as_texts = True

    def write(self, export: Export, folder: Path) -> None:
        write_lines(folder / "rows.jsonl", ({"messages": messages(row, export.scheme)} for row in export.rows))


def messages(row: TrainingRow, scheme: Scheme) -> list[dict[str, Any]]:
    """A row as a chat; earlier answers have weight 0, which leaves them out of the loss."""
    target = str(scheme.class_of(row.target, row.space)) if scheme.labels else row.target
    asked = Turn("user", scheme.dress(row.body, row.space).rstrip())  # as `Prompter` dresses it
    chat = [_message(turn) for turn in (*row.before, asked, *row.after)]
    return [*chat, {"role": "assistant", "content": scheme.target_text(target, row.space)}]


def _message(turn: Turn) -> dict[str, Any]:
    if turn.role == "tool":  # which needs the number of a call, that rows do not have
        return {"role": "user", "content": f"tool: {turn.content}"}
    weight = {"weight": 0} if turn.role == "assistant" else {}
    return {"role": turn.role, "content": turn.content, **weight}
