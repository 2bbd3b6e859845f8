"""The newer form of OpenAI's answers, `/v1/responses`: whole, or as the events of an answer that is whole already."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from typing import Any

from poison2poison.serve.door import Said
from poison2poison.serve.replies import REFUSAL, marks, pieces_of

REASONS = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Why an answer is not complete, by what the older forms say."""


class Response:
    """One answer in this form."""

    def __init__(self, model: str, said: Said) -> None:
        self.said = said
        self.item = {"id": f"msg_{secrets.token_hex(12)}", "type": "message", "role": "assistant"}
        self.head = {
            "id": f"resp_{secrets.token_hex(12)}", "object": "response", "created_at": int(time.time()), "model": model,
            "error": None, "instructions": None, "metadata": {}, "parallel_tool_calls": False, "tools": [],
            "tool_choice": "none", "previous_response_id": None, "store": False, "truncation": "disabled",
            "text": {"format": {"type": "text"}},
        }  # fmt: skip

    @property
    def whole(self) -> dict[str, Any]:
        """The answer with all around it."""
        reason = REASONS.get(self.said.finish)
        details = {"reason": reason} if reason else None
        ends = {"status": self._status, "incomplete_details": details, "output": [self._message], "usage": self._usage}
        return {**self.head, **ends, "p2p": marks(self.said)}

    def events(self) -> Iterator[str]:
        """The answer as server-sent events."""
        for number, (kind, content) in enumerate(self._events()):
            event = {"type": kind, "sequence_number": number, **content}
            yield f"event: {kind}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n"

    def _events(self) -> Iterator[tuple[str, dict[str, Any]]]:
        begun = {**self.head, "status": "in_progress", "incomplete_details": None, "output": [], "usage": None}
        item = {**self.item, "status": "in_progress", "content": []}
        at_item = {"output_index": 0}
        at = {"item_id": self.item["id"], "output_index": 0, "content_index": 0}

        # 1. It begins, empty.
        yield "response.created", {"response": begun}
        yield "response.in_progress", {"response": begun}
        yield "response.output_item.added", {**at_item, "item": item}
        yield "response.content_part.added", {**at, "part": self._part("")}

        # 2. Its text, or that it is not given out.
        if self.said.text is None:
            yield "response.refusal.delta", {**at, "delta": REFUSAL}
            yield "response.refusal.done", {**at, "refusal": REFUSAL}
        else:
            for piece in pieces_of(self.said.text):
                yield "response.output_text.delta", {**at, "delta": piece, "logprobs": []}
            yield "response.output_text.done", {**at, "text": self.said.text, "logprobs": []}

        # 3. It ends, as a whole once more.
        yield "response.content_part.done", {**at, "part": self._part(self.said.text or "")}
        yield "response.output_item.done", {**at_item, "item": self._message}
        yield f"response.{self._status}", {"response": self.whole}

    @property
    def _status(self) -> str:
        return "incomplete" if self.said.finish in REASONS else "completed"

    @property
    def _message(self) -> dict[str, Any]:
        return {**self.item, "status": self._status, "content": [self._part(self.said.text or "")]}

    def _part(self, text: str) -> dict[str, Any]:
        if self.said.text is None:
            return {"type": "refusal", "refusal": REFUSAL}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    @property
    def _usage(self) -> dict[str, Any]:
        read, written = self.said.prompt_tokens, self.said.tokens
        return {
            "input_tokens": read, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": written, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": read + written,
        }  # fmt: skip
