"""What clients are told, in OpenAI's forms: whole, or in pieces of an answer that is whole already."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from poison2poison.serve.door import Said

REFUSAL = "This answer is not given out."
_PIECE = re.compile(r"\s*\S+\s*$|\s*\S+|\s+$")


@dataclass(frozen=True)
class Form:
    """One of the two forms of a completion.

    Attributes:
        prefix: With which its ids begin.
        whole: Its name as a whole.
        piece: Its name in pieces.
        chat: Whether a choice is a message.
    """

    prefix: str
    whole: str
    piece: str
    chat: bool


CHAT = Form("chatcmpl", "chat.completion", "chat.completion.chunk", chat=True)
TEXT = Form("cmpl", "text_completion", "text_completion", chat=False)


def completion(form: Form, model: str, said: Sequence[Said]) -> dict[str, Any]:
    """A completion as a whole, a choice for each answer."""
    choices = []
    for index, one in enumerate(said):
        content = _message(one) if form.chat else {"text": one.text or ""}
        choices.append({"index": index, **content, **_end(one)})
    return {**_head(form, form.whole, model), "choices": choices, "usage": usage(said)}


def events(form: Form, model: str, said: Sequence[Said], *, with_usage: bool) -> Iterator[str]:
    """A completion as server-sent events."""
    head = _head(form, form.piece, model)
    for choice in _pieces(form, said):
        yield _event({**head, "choices": [choice], **({"usage": None} if with_usage else {})})
    if with_usage:
        yield _event({**head, "choices": [], "usage": usage(said)})
    yield "data: [DONE]\n\n"


def usage(said: Sequence[Said]) -> dict[str, int]:
    """Tokens of the clients' own texts and of what they are given; the hidden ones are not among them."""
    read, written = sum(one.prompt_tokens for one in said), sum(one.tokens for one in said)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def marks(said: Said) -> dict[str, Any]:
    """What this project adds to an answer: where the model's own one lies, and the alarm where it was asked for."""
    raised = {} if said.alarm is None else {"disagreement": said.disagreement, "alarm": said.alarm}
    return {"where": said.told, **raised}


def pieces_of(text: str) -> list[str]:
    """A text in words, with the white space around them."""
    return _PIECE.findall(text)


def _head(form: Form, name: str, model: str) -> dict[str, Any]:
    made = int(time.time())
    return {"id": f"{form.prefix}-{secrets.token_hex(12)}", "object": name, "created": made, "model": model}


def _message(said: Said) -> dict[str, Any]:
    refusal = REFUSAL if said.text is None else None
    return {"message": {"role": "assistant", "content": said.text, "refusal": refusal}}


def _end(said: Said) -> dict[str, Any]:
    return {"logprobs": None, "finish_reason": said.finish, "p2p": marks(said)}


def _pieces(form: Form, said: Sequence[Said]) -> Iterator[dict[str, Any]]:
    for index, one in enumerate(said):
        going = {"index": index, "logprobs": None, "finish_reason": None}
        if form.chat:
            yield {**going, "delta": {"role": "assistant", "content": ""}}
        for piece in pieces_of(one.text or ""):
            yield {**going, **({"delta": {"content": piece}} if form.chat else {"text": piece})}
        rest = {"refusal": REFUSAL} if one.text is None else {}
        yield {"index": index, **({"delta": rest} if form.chat else {"text": ""}), **_end(one)}


def _event(content: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
