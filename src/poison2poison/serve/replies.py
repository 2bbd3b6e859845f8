"""What clients are told, in OpenAI's forms: whole, or in pieces."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from poison2poison.serve.door import Said
from poison2poison.serve.errors import ReplyError

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


Followed = AsyncIterator[tuple[int, str] | Sequence[Said]]
"""Answers that are being written, each by its index and what of it can be given out so far; then the answers."""


async def events(form: Form, model: str, count: int, followed: Followed, *, with_usage: bool) -> AsyncIterator[str]:
    """A completion of so many answers as server-sent events.

    Raises:
        ReplyError: An answer does not go on as it began.
    """
    head = {**_head(form, form.piece, model), **({"usage": None} if with_usage else {})}
    sent = [""] * count
    for index in range(count if form.chat else 0):
        yield _event({**head, "choices": [_going(index, {"delta": {"role": "assistant", "content": ""}})]})
    said: Sequence[Said] = ()
    async for told in followed:
        if isinstance(told, tuple):
            for piece in _next_pieces(form, told, sent):
                yield _event({**head, "choices": [piece]})
        else:
            said = told
    for index, one in enumerate(said):
        for piece in _next_pieces(form, (index, one.text or sent[index]), sent):
            yield _event({**head, "choices": [piece]})
        yield _event({**head, "choices": [_last(form, index, one)]})
    if with_usage:
        yield _event({**head, "choices": [], "usage": usage(said)})
    yield "data: [DONE]\n\n"


async def told_of_failure(pieces: AsyncIterator[str], told: Callable[[ReplyError], str]) -> AsyncIterator[str]:
    """Pieces of a stream; before it breaks off an event that says so, of our own making.

    Args:
        pieces: They.
        told: Makes the event.

    Raises:
        Exception: As of the pieces, so that it is logged, and the connection has no end mark.
    """
    try:
        async for piece in pieces:
            yield piece
    except Exception as error:
        known = error if isinstance(error, ReplyError) else ReplyError("the server failed; the answer is not whole")
        yield told(known)
        raise


def failure(error: ReplyError) -> str:
    """The event of a completion that breaks off."""
    return _event(error.content)


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


def rest(sent: str, text: str) -> str:
    """What of a text was not sent yet.

    Raises:
        ReplyError: It does not go on as it began, as where it had to be written again.
    """
    if not text.startswith(sent):
        raise ReplyError("the answer does not go on as it began")
    return text[len(sent) :]


def _head(form: Form, name: str, model: str) -> dict[str, Any]:
    made = int(time.time())
    return {"id": f"{form.prefix}-{secrets.token_hex(12)}", "object": name, "created": made, "model": model}


def _message(said: Said) -> dict[str, Any]:
    refusal = REFUSAL if said.text is None else None
    return {"message": {"role": "assistant", "content": said.text, "refusal": refusal}}


def _end(said: Said) -> dict[str, Any]:
    return {"logprobs": None, "finish_reason": said.finish, "p2p": marks(said)}


def _next_pieces(form: Form, told: tuple[int, str], sent: list[str]) -> Iterator[dict[str, Any]]:
    """What of an answer was not sent yet."""
    index, text = told
    new, sent[index] = rest(sent[index], text), text
    for piece in pieces_of(new):
        yield _going(index, {"delta": {"content": piece}} if form.chat else {"text": piece})


def _going(index: int, content: Mapping[str, Any]) -> dict[str, Any]:
    return {"index": index, "logprobs": None, "finish_reason": None, **content}


def _last(form: Form, index: int, said: Said) -> dict[str, Any]:
    rest = {"refusal": REFUSAL} if said.text is None else {}
    return {"index": index, **({"delta": rest} if form.chat else {"text": ""}), **_end(said)}


def _event(content: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
