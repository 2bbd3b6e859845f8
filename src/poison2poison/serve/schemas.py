"""What clients may ask, in OpenAI's forms. What is not supported is refused by name, never ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from poison2poison.data import Row, as_row
from poison2poison.data.chats import UnusableError, refuse_half_characters
from poison2poison.errors import DataError
from poison2poison.serve.door import Ask
from poison2poison.serve.errors import RefusedError
from poison2poison.types import Role

COLDEST = 0.01
"""Temperatures under it are 0: to divide by them makes scores infinite."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,), "echo": (False,), "logprobs": (False,), "top_logprobs": (0,), "suffix": ("",),
    "frequency_penalty": (0, 0.0), "presence_penalty": (0, 0.0), "logit_bias": ({},), "seed": (), "tools": ([],),
    "tool_choice": ("none", "auto"), "parallel_tool_calls": (True, False), "functions": ([],),
    "function_call": ("none",), "response_format": ({"type": "text"},), "modalities": (["text"],), "audio": (),
    "prediction": (), "reasoning_effort": (), "verbosity": (), "web_search_options": (), "store": (False,),
    "metadata": ({},), "service_tier": ("auto", "default"),
}  # fmt: skip
"""Fields of OpenAI's that have no effect here, and their values that ask for none."""
NEUTRAL_OF_RESPONSES: dict[str, tuple[Any, ...]] = {
    "background": (False,), "conversation": (), "include": ([],), "max_tool_calls": (), "metadata": ({},),
    "parallel_tool_calls": (True, False), "previous_response_id": (), "prompt": (), "reasoning": (),
    "service_tier": ("auto", "default"), "store": (False,), "stream_options": ({"include_obfuscation": False},),
    "text": ({"format": {"type": "text"}},), "tool_choice": ("none", "auto"), "tools": ([],), "top_logprobs": (0,),
    "truncation": ("disabled",),
}  # fmt: skip
"""The same of `/v1/responses`."""
SAID = ("input_text", "output_text", "text")
"""Kinds of parts that hold a text."""
Text = Annotated[str, Field(min_length=1)]
Turns = Annotated[
    list[dict[str, Any]],
    WithJsonSchema(
        {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["role", "content"],
                "properties": {"role": {"enum": get_args(Role)}, "content": {"type": "string"}},
            },
        }
    ),
]
"""Messages: whether they make a chat is looked at later, and said in other words. The description has the plainest."""


class StreamOptions(BaseModel):
    """What a stream has beside the answer."""

    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False


class Asked(BaseModel):
    """What all that write an answer take.

    Attributes:
        model: The name that `/v1/models` gives.
        temperature: Of sampling; the best token always where it is 0 or not given. Labels are never sampled.
        top_p: The share of the likeliest tokens that are sampled from.
        stream: Whether it is sent in pieces, while it is written where that can be.
        user: Taken and not used.
        alarm: Whether to say where the two spaces disagree; no field of OpenAI's.
    """

    model_config = ConfigDict(extra="forbid")
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = NEUTRAL
    model: str
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    stream: bool | None = False
    user: str | None = None
    alarm: bool = False

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        left = dict(given)
        for name in cls.neutral.keys() & left.keys():
            value = left.pop(name)
            asks_for_none = any(type(one) is type(value) and one == value for one in cls.neutral[name])  # 0, not False
            if value is not None and not asks_for_none:
                raise RefusedError(f"{name}: is not supported here", code="unsupported_parameter", param=name)
        return left

    def ask(self, row: Row) -> Ask:
        """One input, to be answered as it is wanted here."""
        temperature = self.temperature or 0.0
        if temperature < COLDEST:
            temperature = 0.0
        top_p = 1.0 if self.top_p is None else self.top_p
        return Ask(row, temperature, top_p, self.stops, self.most, self.alarm)

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts before which an answer ends."""
        return ()

    @property
    def most(self) -> int | None:
        """Tokens of an answer that are given out."""
        return None


class CompletionAsked(Asked):
    """What both kinds of completions take.

    Attributes:
        n: Answers for each input.
        max_tokens: Tokens of an answer that are given out.
        stop: Texts before which an answer ends.
        stream_options: What the stream has beside it.
    """

    n: int = Field(1, ge=1, le=1024)
    max_tokens: int | None = Field(None, ge=1)
    stop: Text | list[Text] | None = None
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts before which an answer ends.

        Raises:
            RefusedError: There are more than four.
        """
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if len(stop) > 4:
            raise RefusedError("stop: give at most four texts", param="stop")
        return stop

    @property
    def most(self) -> int | None:
        """Tokens of an answer that are given out."""
        return self.max_tokens

    @property
    def usage_in_stream(self) -> bool:
        """Whether a stream ends with the counts."""
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatAsked(CompletionAsked):
    """A chat to be answered.

    Attributes:
        messages: Turns of role and content; the last one is a user's, or a tool's.
        max_completion_tokens: The newer name of `max_tokens`.
    """

    messages: Turns = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)

    @property
    def most(self) -> int | None:
        """Tokens of an answer that are given out."""
        given = [one for one in (self.max_tokens, self.max_completion_tokens) if one is not None]
        return min(given, default=None)

    def rows(self) -> list[Row]:
        """The chat as a row.

        Raises:
            RefusedError: It is none that can be answered.
        """
        return [_chat(self.messages, "messages")]


class TextAsked(CompletionAsked):
    """Texts to be answered.

    Attributes:
        prompt: A text, or several.
    """

    prompt: str | list[str]

    def rows(self) -> list[Row]:
        """Each text as a row.

        Raises:
            RefusedError: There is none, or one holds half a character.
        """
        return _rows(self.prompt, "prompt")


class ResponseAsked(Asked):
    """A text or a chat to be answered once.

    Attributes:
        input: A text, or messages of role and content.
        instructions: The text of a system turn before them.
        max_output_tokens: Tokens of the answer that are given out.
    """

    neutral = NEUTRAL_OF_RESPONSES
    input: str | Turns
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1)

    @property
    def most(self) -> int | None:
        """Tokens of the answer that are given out."""
        return self.max_output_tokens

    def row(self) -> Row:
        """The chat as a row.

        Raises:
            RefusedError: It is none that can be answered.
        """
        given = [{"role": "user", "content": self.input}] if isinstance(self.input, str) else self.input
        before = [{"role": "system", "content": self.instructions}] if self.instructions else []
        return _chat([*before, *map(_message, given)], "input")


class LabelsAsked(BaseModel):
    """Texts to be classified.

    Attributes:
        input: A text, or several.
        model: The name that `/v1/models` gives; there is one only.
        alarm: Whether to say where the two spaces disagree.
    """

    model_config = ConfigDict(extra="forbid")
    input: str | list[str]
    model: str | None = None
    alarm: bool = False

    def rows(self) -> list[Row]:
        """Each text as a row.

        Raises:
            RefusedError: There is none, or one holds half a character.
        """
        return _rows(self.input, "input")


def _message(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item of an input as a message.

    Raises:
        RefusedError: It is none, as a call of a tool.
    """
    if item.get("type", "message") != "message":
        raise RefusedError("input: has an item that is no message; others are not supported", param="input")
    content = item.get("content")
    if isinstance(content, list):
        content = [_part(part) for part in content]
    return {"role": item.get("role"), "content": content}


def _part(part: Any) -> Any:
    """A part of a content, by the name that messages have for it."""
    holds_text = isinstance(part, Mapping) and part.get("type") in SAID
    return {"type": "text", "text": part.get("text")} if holds_text else part


def _chat(messages: list[dict[str, Any]], name: str) -> Row:
    try:
        return as_row(messages)
    except DataError as error:
        raise RefusedError(f"{name}: {error}", param=name) from None


def _rows(given: str | list[str], name: str) -> list[Row]:
    texts = [given] if isinstance(given, str) else given
    if not texts:
        raise RefusedError(f"{name}: holds no text", param=name)
    for text in texts:
        try:
            refuse_half_characters(text, name)
        except UnusableError as error:
            raise RefusedError(f"{name}: {error}", param=name) from None
    return [Row(text, "") for text in texts]
