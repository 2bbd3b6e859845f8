"""Chats as people write them down: OpenAI's messages, ShareGPT's from and value, content in parts, calls of tools.

A call of a tool is kept as the JSON of its name and arguments, and tools on offer as JSON behind the system turn: as
text, which a model reads and writes like any other, and never as a template's control tokens.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from poison2poison.data.row import Role, Row, Turn
from poison2poison.errors import DataError, told

Messages = Sequence[Mapping[str, Any]]
"""A chat as OpenAI's API takes it: turns of role and content."""

ROLES: dict[str, Role] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant", "chatgpt": "assistant",
    "function_call": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "function_response": "tool", "ipython": "tool",
}  # fmt: skip
"""Names of roles, and what they are here."""


class UnusableError(ValueError):
    """A row that cannot be used: the reason, which other rows may have too, and what this one holds."""

    def __init__(self, reason: str, held: Any = None) -> None:
        super().__init__(reason)
        self.held = None if held is None else told(held)


@dataclass(frozen=True)
class Draft:
    """A row as a layout reads it, not yet checked: prompt and target can be anything.

    Attributes:
        remarks: What is worth telling of it, where it is alike for many rows.
    """

    prompt: Any
    target: Any
    before: tuple[Turn, ...] = ()
    after: tuple[Turn, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Said:
    turn: Turn
    counts: bool


def chat(turns: Any, name: str, *, tools: Any = None, answered: bool = True) -> Draft:
    """The last answer that counts, the user turn before it, and all turns around these.

    Args:
        turns: What the field holds.
        name: The field's name.
        tools: Tools on offer.
        answered: Whether there has to be an answer.

    Raises:
        UnusableError: It is no chat.
    """
    said = [_said(turn, f"{name}, turn {number}") for number, turn in enumerate(_listed(turns, name), 1)]
    answers = [i for i, one in enumerate(said) if one.turn.role == "assistant" and one.counts]
    if answered and not answers:
        raise UnusableError(f"field {name!r} has no answer of the assistant that counts")
    end = answers[-1] if answers and (answered or answers[-1] == len(said) - 1) else len(said)
    asked = [i for i, one in enumerate(said[:end]) if one.turn.role == "user"]
    if not asked:
        raise UnusableError(f"field {name!r} has no user turn before the answer")
    read = [one.turn for one in said[:end]]
    remarks = []
    if answered and len(answers) > 1:
        remarks.append("earlier answers are read and not trained on")
    if end < len(said) - 1:
        remarks.append("turns behind the last answer that counts are left out")
    before = tuple(read[: asked[-1]])
    target = said[end].turn.content if end < len(said) else None
    return Draft(
        read[asked[-1]].content, target, with_system(before, _offered(tools)), tuple(read[asked[-1] + 1 :]),
        tuple(remarks),
    )  # fmt: skip


def as_row(asked: str | Messages | Row) -> Row:
    """An input as a row: a text, a chat up to where the answer begins, or a row with whatever target.

    Raises:
        DataError: A chat has no user turn, or its turns cannot be read.
    """
    if isinstance(asked, Row):
        return asked
    if isinstance(asked, str):
        return Row(asked, "")
    try:
        draft = chat([*asked], "messages", answered=False)
    except UnusableError as unusable:
        raise DataError(f"input: {unusable}" + (f" ({unusable.held})" if unusable.held else "")) from None
    return Row(str(draft.prompt), "", draft.before, draft.after)


def with_system(turns: Sequence[Turn], text: str) -> tuple[Turn, ...]:
    """The turns with a text behind the system turn's, which begins a chat."""
    if not text:
        return tuple(turns)
    if turns and turns[0].role == "system":
        return (Turn("system", f"{turns[0].content}\n\n{text}"), *turns[1:])
    return (Turn("system", text), *turns)


def _listed(turns: Any, name: str) -> Sequence[Any]:
    if isinstance(turns, str):  # JSON as text, as tables have it
        try:
            turns = json.loads(turns)
        except (ValueError, RecursionError):
            raise UnusableError(f"field {name!r} must list turns; it is a text") from None
    if isinstance(turns, Mapping):
        turns = [turns]
    if not isinstance(turns, list) or not turns:
        raise UnusableError(f"field {name!r} must list turns of role and content")
    return turns


def _said(turn: Any, where: str) -> _Said:
    if not isinstance(turn, Mapping):
        raise UnusableError(f"field {where}: no turn of role and content", turn)
    name = turn.get("role", turn.get("from"))
    role = ROLES.get(name.strip().lower()) if isinstance(name, str) else None
    if role is None:
        raise UnusableError(f"field {where}: its role is none of {', '.join(ROLES)}", name)
    content = _content(turn.get("content", turn.get("value")), where)
    for call in [*(turn.get("tool_calls") or []), *filter(None, [turn.get("function_call")])]:
        content += ("\n" if content else "") + _call(call, where)
    weight = turn.get("weight", 1)
    return _Said(Turn(role, content), weight is None or bool(weight))


def _content(content: Any, where: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        kinds = {str(part.get("type", "text")) if isinstance(part, Mapping) else "text" for part in content}
        if kinds > {"text"} or kinds.isdisjoint({"text"}):
            raise UnusableError(f"field {where}: has content of another kind than text", ", ".join(sorted(kinds)))
        texts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        if all(isinstance(text, str) for text in texts):
            return "".join(map(str, texts))
    raise UnusableError(f"field {where}: its content is no text", content)


def _call(call: Any, where: str) -> str:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise UnusableError(f"field {where}: a call of a tool without its name")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError):  # else as it is: models write broken JSON too
            arguments = json.loads(arguments)
    return json.dumps({"name": function["name"], "arguments": arguments}, ensure_ascii=False)


def _offered(tools: Any) -> str:
    if not tools:
        return ""
    return "Tools: " + (tools if isinstance(tools, str) else json.dumps(tools, ensure_ascii=False))
