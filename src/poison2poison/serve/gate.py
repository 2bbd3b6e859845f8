"""Around the app: request ids, keys, sizes, counts and logs, and the last word on every error."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from poison2poison.serve import keys
from poison2poison.serve.config import ServeConfig, is_loopback
from poison2poison.serve.errors import (
    BusyError,
    EndingError,
    KeyRefusedError,
    RefusedError,
    ReplyError,
    SlowError,
    TooLargeError,
)
from poison2poison.serve.logs import LOG, place
from poison2poison.serve.metrics import Metrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = {"/", "/healthz", "/readyz"}
"""Paths that need no key: they say nothing of the model or its clients."""
GONE = 499
"""What is counted where the client has gone before it was told anything; nginx has it so."""
ALWAYS = {"x-content-type-options": "nosniff", "cache-control": "no-store"}


class Gate:
    """An ASGI app around another."""

    def __init__(
        self, app: App, config: ServeConfig, metrics: Metrics, hashes: Mapping[str, str], endpoints: frozenset[str]
    ) -> None:
        """Guard an app.

        Args:
            app: It.
            config: Its limits.
            metrics: Where requests are counted.
            hashes: Of keys, by names; none where all may ask.
            endpoints: Paths that are counted by name; all others are one.
        """
        self.app, self.config, self.metrics = app, config, metrics
        self.hashes, self.endpoints = dict(hashes), endpoints
        self.at_work = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, come what may."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # websockets: the server closes them
        request = _Request(scope, send)
        self.at_work += 1
        try:
            self._check_host(scope)
            self._check_key(scope, request)
            self._check_room(scope)
            body = await self._body(receive)
            if body is not None:
                await self.app(scope, _replayed(body, receive), request.send)
        except ReplyError as error:
            await request.fail(error)
        except asyncio.CancelledError:  # the server's time to drain is over
            await request.fail(EndingError("the server is ending"))
            raise
        except Exception as error:
            request.failed = place(error)
            await request.fail(ReplyError("the server failed; nothing of the answer was given out"))
        finally:
            self.at_work -= 1
            self._count(scope, request)

    def _check_host(self, scope: Scope) -> None:
        """Without keys, refuse who came by another name: a web page can have its own name lead here."""
        given = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        name = given.rpartition(":")[0] if given.rpartition(":")[2].isdigit() else given
        if not self.hashes and not is_loopback(name.strip("[]")):
            raise RefusedError("without keys, this server is reached by 127.0.0.1 or localhost alone")

    def _check_room(self, scope: Scope) -> None:
        """Refuse more requests than could wait, whose bodies would fill the memory."""
        if self.at_work > self.config.queue + self.config.batch and scope["path"] not in OPEN:
            raise BusyError("too many requests at a time; come back later")

    def _check_key(self, scope: Scope, request: _Request) -> None:
        if not self.hashes or scope["path"] in OPEN:
            return
        given = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
        kind, _, key = given.partition(" ")
        request.owner = keys.owner(key.strip(), self.hashes) if kind.lower() == "bearer" else None
        if request.owner is None:
            raise KeyRefusedError("the API key is missing or wrong", code="invalid_api_key")

    async def _body(self, receive: Receive) -> bytes | None:
        """The body, or None where the client has gone."""
        try:
            return await asyncio.wait_for(self._read(receive), self.config.timeout)
        except asyncio.TimeoutError:
            raise SlowError("the body of the request does not come") from None

    async def _read(self, receive: Receive) -> bytes | None:
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            part = message.get("body", b"")
            parts.append(part)
            size, more = size + len(part), message.get("more_body", False)
            if size > self.config.max_body:
                raise TooLargeError(f"the body of the request has more than {self.config.max_body} bytes")
        return b"".join(parts)

    def _count(self, scope: Scope, request: _Request) -> None:
        path = scope["path"]
        endpoint = path if path in self.endpoints else "other"
        status = request.status or GONE
        seconds = time.perf_counter() - request.begun
        self.metrics.request(endpoint, status, seconds)
        said = {
            "request": request.id, "method": scope["method"] if endpoint != "other" else "", "endpoint": endpoint,
            "status": status, "ms": round(1000 * seconds), "key": request.owner, **request.failed,
        }  # fmt: skip
        LOG.log(40 if request.failed else 20, "request", extra={"fields": said})


class _Request:
    """One request: its id, and what was sent for it."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.id, self.begun = secrets.token_hex(8), time.perf_counter()
        self.status, self.owner = 0, None  # type: int, str | None
        self.failed: dict[str, Any] = {}
        self._send = send
        scope.setdefault("state", {})["request"] = self.id

    async def send(self, message: Message) -> None:
        """Pass a message on, with our headers."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            ours = {"x-request-id": self.id, **ALWAYS}
            encoded = [(name.encode(), value.encode()) for name, value in ours.items()]
            message["headers"] = [*message.get("headers", ()), *encoded]
        await self._send(message)

    async def fail(self, error: ReplyError) -> None:
        """Tell of an error, unless something was told already: then the connection ends without an end mark."""
        if self.status:
            return
        headers = {"content-type": "application/json", "connection": "close", **error.headers}
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": error.status, "headers": encoded})
        await self.send({"type": "http.response.body", "body": json.dumps(error.content).encode()})


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A body that was read already, as a message."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay
