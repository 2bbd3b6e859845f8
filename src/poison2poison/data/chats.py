"""Chats as people write them down: OpenAI's messages, ShareGPT's from and value, content in parts, calls of tools.

A call of a tool is kept as the JSON of its name and arguments, and tools on offer as JSON behind the system turn: as
text, which a model reads and writes like any other, and never as a template's control tokens.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from poison2poison.data.row import Row, Turn
from poison2poison.errors import DataError, told
from poison2poison.types import Role

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
CONTENT = ("content", "value", "text")
"""Keys of a turn's text; the first that is there counts."""
KEYS = {*CONTENT, "role", "from", "weight", "tool_calls", "function_call", "name", "tool_call_id", "id"}
_SURROGATE = re.compile("[\ud800-\udfff]")


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
    """A turn, whether it is to be learned, and keys with text that are not read."""

    turn: Turn
    counts: bool
    unread: tuple[str, ...]


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
    turns = [one.turn for one in said]

    # 1. Where the answer is, and what is asked.
    answers = [i for i, one in enumerate(said) if one.turn.role == "assistant" and one.counts]
    if answered and not answers:
        raise UnusableError(f"field {name!r} has no answer of the assistant that counts")
    over = bool(turns) and turns[-1].role == "assistant"  # else a last user turn is what is asked
    end = answers[-1] if answers and (answered or over) else len(turns)
    users = [i for i, turn in enumerate(turns[:end]) if turn.role == "user"]
    if not users:
        raise UnusableError(f"field {name!r} has no user turn before the answer")
    asked = users[-1]

    # 2. What is worth telling.
    remarks = []
    if answered and len(answers) > 1:
        remarks.append("earlier answers are read and not trained on")
    if end < len(turns) - 1:
        remarks.append("turns behind the last answer that counts are left out")
    unread = dict.fromkeys(key for one in said for key in one.unread)
    remarks += [f"{key!r} of turns is not read" for key in unread]

    return Draft(
        prompt=turns[asked].content,
        target=turns[end].content if end < len(turns) else None,
        before=with_system(turns[:asked], _offered(tools)),
        after=tuple(turns[asked + 1 : end]),
        remarks=tuple(remarks),
    )


def as_row(asked: str | Messages | Row) -> Row:
    """An input as a row: a text, a chat up to where the answer begins, or a row with whatever target.

    Raises:
        DataError: A chat has no user turn, or its turns cannot be read.
    """
    if isinstance(asked, Row):
        return asked
    try:
        if isinstance(asked, str):
            draft = Draft(asked, None)
        elif isinstance(asked, Sequence):
            draft = chat([*asked], "messages", answered=False)
        else:
            raise UnusableError("neither a text nor a chat", asked)
        if draft.target is not None:
            raise UnusableError("the chat is answered already; it must end with a user's turn, or a tool's")
        row = Row(str(draft.prompt), "", draft.before, draft.after)
        refuse_half_characters(row.text, "messages")
    except UnusableError as unusable:
        raise DataError(f"input: {unusable}" + (f" ({unusable.held})" if unusable.held else "")) from None
    return row


def refuse_half_characters(text: str, field: str) -> None:
    """Refuse a text that no encoding has.

    Raises:
        UnusableError: It holds a lone surrogate.
    """
    if not text.isascii() and _SURROGATE.search(text):
        raise UnusableError(f"field {field!r} holds half a character (a lone surrogate), as of a cut emoji")


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
    name = turn.get("role") or turn.get("from")
    role = ROLES.get(name.strip().lower()) if isinstance(name, str) else None
    if role is None:
        raise UnusableError(f"field {where}: its role is none of {', '.join(ROLES)}", name)
    calls = [_call(call, where) for call in _calls(turn, where)]
    contents = (turn[key] for key in CONTENT if turn.get(key) is not None)
    held = next(contents, None)
    if held is None and not calls:
        raise UnusableError(f"field {where}: has no content")
    parts = [_content(held, where), *calls]
    text = "\n".join(part for part in parts if part)
    others = {key: value for key, value in turn.items() if key not in KEYS}
    unread = tuple(key for key, value in others.items() if isinstance(value, str) and value.strip())
    return _Said(Turn(role, text), _counts(turn), unread)


def _counts(turn: Mapping[str, Any]) -> bool:
    """Whether a turn is to be learned: it has no weight, or one that is not 0."""
    try:
        return float(turn.get("weight", 1)) != 0
    except (TypeError, ValueError):
        return True


def _calls(turn: Mapping[str, Any], where: str) -> list[Any]:
    held = turn.get("tool_calls") or []
    if isinstance(held, str):
        with contextlib.suppress(ValueError, RecursionError):
            held = json.loads(held)
    if not isinstance(held, list):
        raise UnusableError(f"field {where}: its calls of tools are no list", held)
    return [*held, *filter(None, [turn.get("function_call")])]


def _content(content: Any, where: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part if isinstance(part, Mapping) else {"text": part} for part in content]
        kinds = {str(part.get("type", "text")) for part in parts}
        if kinds - {"text"}:
            raise UnusableError(f"field {where}: has content of another kind than text", ", ".join(sorted(kinds)))
        texts = [part.get("text") for part in parts]
        if all(isinstance(text, str) for text in texts):
            return "".join(map(str, texts))
    raise UnusableError(f"field {where}: its content is no text", content)


def _call(call: Any, where: str) -> str:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise UnusableError(f"field {where}: a call of a tool without its name")
    arguments, name = function.get("arguments"), json.dumps(function["name"], ensure_ascii=False)
    if not isinstance(arguments, str) or not _is_json(arguments):
        arguments = json.dumps(arguments, ensure_ascii=False, default=str)
    return f'{{"name": {name}, "arguments": {arguments}}}'  # JSON as it was written


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _offered(tools: Any) -> str:
    if not tools:
        return ""
    return "Tools: " + (tools if isinstance(tools, str) else json.dumps(tools, ensure_ascii=False, default=str))
