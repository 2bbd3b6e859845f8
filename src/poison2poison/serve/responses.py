"""The newer form of OpenAI's answers, `/v1/responses`: whole, or as events."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from poison2poison.serve.door import Said
from poison2poison.serve.errors import ReplyError
from poison2poison.serve.replies import REFUSAL, Followed, marks, pieces_of, rest

REASONS = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Why an answer is not complete, by what the older forms say."""
Event = tuple[str, dict[str, Any]]
"""Its kind and content."""


class Response:
    """One answer in this form."""

    def __init__(self, model: str) -> None:
        """Begin an answer of the model that clients know by this name."""
        self.item = {"id": f"msg_{secrets.token_hex(12)}", "type": "message", "role": "assistant"}
        self.head = {
            "id": f"resp_{secrets.token_hex(12)}", "object": "response", "created_at": int(time.time()), "model": model,
            "error": None, "instructions": None, "metadata": {}, "parallel_tool_calls": False, "tools": [],
            "tool_choice": "none", "previous_response_id": None, "store": False, "truncation": "disabled",
            "text": {"format": {"type": "text"}},
        }  # fmt: skip
        self._at = {"item_id": self.item["id"], "output_index": 0, "content_index": 0}
        self._events = 0

    def whole(self, said: Said) -> dict[str, Any]:
        """The answer with all around it."""
        reason = REASONS.get(said.finish)
        details = {"reason": reason} if reason else None
        ends = {"status": _status(said), "incomplete_details": details, "output": [self._message(said)]}
        return {**self.head, **ends, "usage": _usage(said), "p2p": marks(said)}

    async def events(self, followed: Followed) -> AsyncIterator[str]:
        """The answer as server-sent events.

        Raises:
            ReplyError: It does not go on as it began.
        """
        sent = ""
        for event in self._begins():
            yield self._event(event)
        async for told in followed:
            text = told[1] if isinstance(told, tuple) else told[0].text or sent
            deltas = [*self._deltas(rest(sent, text))]
            ends = [] if isinstance(told, tuple) else [*self._ends(told[0])]
            for event in [*deltas, *ends]:
                yield self._event(event)
            sent = text

    def failure(self, error: ReplyError) -> str:
        """The event of an answer that breaks off."""
        return self._event(("error", {"code": error.code, "message": error.message, "param": error.param}))

    def _event(self, event: Event) -> str:
        kind, content = event
        numbered = {"type": kind, "sequence_number": self._events, **content}
        self._events += 1
        return f"event: {kind}\ndata: {json.dumps(numbered, ensure_ascii=False)}\n\n"

    def _begins(self) -> Iterator[Event]:
        """It begins, empty."""
        begun = {**self.head, "status": "in_progress", "incomplete_details": None, "output": [], "usage": None}
        item = {**self.item, "status": "in_progress", "content": []}
        yield "response.created", {"response": begun}
        yield "response.in_progress", {"response": begun}
        yield "response.output_item.added", {"output_index": 0, "item": item}
        yield "response.content_part.added", {**self._at, "part": _part("")}

    def _deltas(self, text: str) -> Iterator[Event]:
        for piece in pieces_of(text):
            yield "response.output_text.delta", {**self._at, "delta": piece, "logprobs": []}

    def _ends(self, said: Said) -> Iterator[Event]:
        """Its text is whole, or not given out; it ends, as a whole once more."""
        if said.text is None:
            yield "response.refusal.delta", {**self._at, "delta": REFUSAL}
            yield "response.refusal.done", {**self._at, "refusal": REFUSAL}
        else:
            yield "response.output_text.done", {**self._at, "text": said.text, "logprobs": []}
        yield "response.content_part.done", {**self._at, "part": _part(said.text)}
        yield "response.output_item.done", {"output_index": 0, "item": self._message(said)}
        yield f"response.{_status(said)}", {"response": self.whole(said)}

    def _message(self, said: Said) -> dict[str, Any]:
        return {**self.item, "status": _status(said), "content": [_part(said.text)]}


def _status(said: Said) -> str:
    return "incomplete" if said.finish in REASONS else "completed"


def _part(text: str | None) -> dict[str, Any]:
    if text is None:
        return {"type": "refusal", "refusal": REFUSAL}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(said: Said) -> dict[str, Any]:
    read, written = said.prompt_tokens, said.tokens
    return {
        "input_tokens": read, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": written, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": read + written,
    }  # fmt: skip
