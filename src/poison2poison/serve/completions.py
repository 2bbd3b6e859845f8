"""Completions of token ids by another server, whole or while they are written. What it sends is not believed.

No error quotes a reply, which may hold the prompt.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx2

from poison2poison.errors import ConfigError
from poison2poison.serve.config import ServeConfig
from poison2poison.serve.errors import LateError, UpstreamError

LARGEST = 1 << 20
"""Bytes of a reply: an answer has some thousand."""
A_TOKEN = 512
"""Bytes more for each token, whose scores may be told, or which may come in a piece of its own: vLLM takes some 200."""
WHOLE = ("stop", "length")
"""Reasons for which a whole answer ends."""
DATA, DONE = b"data:", b"[DONE]"


class Completions:
    """The endpoint `/v1/completions` of a server, in an event loop."""

    def __init__(self, config: ServeConfig, name: str) -> None:
        """Ask for the model that has this name there.

        Raises:
            ConfigError: The file with its key cannot be read.
        """
        url = f"{(config.upstream or '').rstrip('/').removesuffix('/v1')}/v1/completions"
        self.name, self._url = name, url
        # No proxy of the environment, no redirect: dressed prompts go to this server alone.
        self._client = httpx2.AsyncClient(
            timeout=config.timeout, headers=_headers(config.upstream_key), trust_env=False, follow_redirects=False
        )

    async def close(self) -> None:
        """End."""
        await self._client.aclose()

    async def whole(self, ids: list[int], most: int, **options: float) -> dict[str, Any]:
        """The choice of a completion of `most` tokens at most.

        Raises:
            UpstreamError: There is none, or it is not whole.
            LateError: It does not come.
        """
        async with self._reply(ids, most, stream=False, **options) as reply:
            body = b"".join([part async for part in _bounded(reply, LARGEST + A_TOKEN * len(ids))])
        choice = _choice(body)
        if choice["finish_reason"] not in WHOLE:
            raise UpstreamError("the model's server sent no whole answer")
        return choice

    async def written(self, ids: list[int], most: int, **options: float) -> AsyncGenerator[str, None]:
        """The text of a completion so far, each time that it has grown; the last one is whole.

        Raises:
            UpstreamError: There is none, or it does not come to its end.
            LateError: It does not go on.
        """
        text, why = "", None
        async with self._reply(ids, most, stream=True, **options) as reply:
            async for event in _events(_bounded(reply, LARGEST + A_TOKEN * most)):
                if why:
                    continue  # counts of tokens
                choice = _choice(event)
                text, why = text + choice["text"], choice["finish_reason"]
                yield text
        if why not in WHOLE:
            raise UpstreamError("the model's server sent no whole answer")

    @asynccontextmanager
    async def _reply(self, ids: list[int], most: int, **options: Any) -> AsyncIterator[httpx2.Response]:
        asked = {"model": self.name, "prompt": ids, "max_tokens": most, "n": 1, **options}
        with _known():
            async with self._client.stream("POST", self._url, json=asked) as reply:
                if reply.status_code != 200:
                    raise UpstreamError("the model's server refused or failed", code=f"upstream_{reply.status_code}")
                yield reply


@contextmanager
def _known() -> Iterator[None]:
    """Errors of the connection as ours."""
    try:
        yield
    except httpx2.TimeoutException:
        raise LateError("the model's server does not answer") from None
    except httpx2.HTTPError:
        raise UpstreamError("the model's server cannot be reached, or broke off") from None


async def _bounded(reply: httpx2.Response, most: int) -> AsyncIterator[bytes]:
    """The parts of a body of so many bytes at most."""
    read = 0
    async for part in reply.aiter_bytes():
        read += len(part)
        if read > most:
            raise UpstreamError("the model's server sent too much")
        yield part


async def _events(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The data of server-sent events, up to the end mark. A line that is not ended is none."""
    begun = b""
    async for part in parts:
        *lines, begun = (begun + part).split(b"\n")
        for line in lines:
            data = line.removeprefix(DATA).strip()
            if data == DONE:
                return
            if line.startswith(DATA):
                yield data


def _choice(body: bytes) -> dict[str, Any]:
    """The one choice of a completion, with its text.

    Raises:
        UpstreamError: There is none.
    """
    try:
        content: Any = json.loads(body)
        [choice] = content["choices"]
        text, _ = choice["text"], choice["finish_reason"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UpstreamError("the model's server sent no completion") from None
    if not isinstance(text, str):
        raise UpstreamError("the model's server sent no completion")
    return dict(choice)


def _headers(path: str | None) -> dict[str, str]:
    if path is None:
        return {"accept-encoding": "identity"}
    try:
        key = Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"upstream_key: {path}: cannot be read as a key") from None
    return {"authorization": f"Bearer {key}", "accept-encoding": "identity"}
