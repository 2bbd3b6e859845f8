"""Another server has the weights: it is asked for completions of token ids alone, and never believed.

For each input it is asked twice at the same time: what the model would begin with, and the answer behind the forced
safe prefix. The prompts share all but their ends, so that a server that keeps prefixes reads them once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2

from poison2poison.errors import ConfigError
from poison2poison.model.prompting import Prompter
from poison2poison.model.served import Answer
from poison2poison.serve.config import ServeConfig
from poison2poison.serve.door import Ask, Door, Said
from poison2poison.serve.errors import BusyError, EndingError, LateError, UpstreamError

LARGEST = 1 << 20
"""Bytes of a reply: an answer has some thousand."""
WHOLE = ("stop", "length")
"""Reasons for which a whole answer ends."""


class Upstream:
    """An OpenAI-compatible server that has the merged model, or base and adapter, by a name."""

    def __init__(self, prompter: Prompter, door: Door, config: ServeConfig, name: str) -> None:
        """Ask `config.upstream` for answers.

        Raises:
            ConfigError: The file with its key cannot be read.
        """
        self.prompter, self.door, self.room = prompter, door, config.queue
        self.name = config.upstream_model or name
        self._prefix = prompter.safe_prefix_ids if prompter.scheme.trigger else []
        self._begins = str(prompter.tokenizer.decode(self._prefix)).strip()
        self._url = f"{(config.upstream or '').rstrip('/').removesuffix('/v1')}/v1/completions"
        self._headers = _authorization(config.upstream_key)
        self._timeout, self._batch = config.timeout, config.batch
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokens")
        self._client: httpx2.AsyncClient | None = None
        self._waiting = 0

    def start(self) -> None:
        """Begin to answer, in the running event loop."""
        # No proxy of the environment, no redirect: dressed prompts go to this server alone.
        self._client = httpx2.AsyncClient(
            timeout=self._timeout, headers=self._headers, trust_env=False, follow_redirects=False
        )
        self._free = asyncio.Semaphore(self._batch)

    async def close(self) -> None:
        """End."""
        client, self._client = self._client, None
        if client:
            await client.aclose()
        self._thread.shutdown(wait=False)

    @property
    def ready(self) -> bool:
        """Whether requests are taken; whether the other server answers shows in its errors."""
        return self._client is not None

    @property
    def waiting(self) -> int:
        """How many inputs wait or are upstream."""
        return self._waiting

    async def answer(self, asks: Sequence[Ask]) -> list[Said]:
        """The answers, in order.

        Raises:
            ReplyError: There is none for one of them.
        """
        if not self.ready:
            raise EndingError("the server is ending")
        if self._waiting + len(asks) > self.room:
            raise BusyError("too many inputs wait; come back later")
        self._waiting += len(asks)
        tasks = [asyncio.create_task(self._answer(ask)) for ask in asks]
        try:
            return await asyncio.gather(*tasks)
        finally:
            self._waiting -= len(asks)
            for task in tasks:
                task.cancel()

    async def _answer(self, ask: Ask) -> Said:
        loop = asyncio.get_running_loop()
        async with self._free:
            ids = await loop.run_in_executor(self._thread, self.door.enter, ask)
            begun, text = await asyncio.gather(self._begun(ids), self._written(ids, ask))
        where = self.prompter.scheme.place(text, prefixed=begun)
        answer = Answer(text, where, text if begun else None)
        return await loop.run_in_executor(self._thread, self.door.leave, ask, answer)

    async def _begun(self, ids: list[int]) -> bool:
        """Whether the model would have begun with the safe prefix."""
        if not self._prefix:
            return True
        own = await self._completion(ids, len(self._prefix), temperature=0.0)
        return own.strip() == self._begins

    async def _written(self, ids: list[int], ask: Ask) -> str:
        """The answer behind the forced prefix, whole: the door cuts it where the client wants."""
        forced = [*ids, *self._prefix]
        text = await self._completion(forced, self.door.budget, temperature=ask.temperature, top_p=ask.top_p)
        return text.strip()

    async def _completion(self, ids: list[int], most: int, **sampling: float) -> str:
        """A completion of token ids.

        Raises:
            UpstreamError: There is none, or it is not whole.
            LateError: It does not come.
        """
        asked = {"model": self.name, "prompt": ids, "max_tokens": most, "n": 1, "stream": False, **sampling}
        assert self._client
        try:
            async with self._client.stream("POST", self._url, json=asked) as reply:
                if reply.status_code != 200:
                    raise UpstreamError("the model's server refused or failed", code=f"upstream_{reply.status_code}")
                body = await _bounded(reply)
        except httpx2.TimeoutException:
            raise LateError("the model's server does not answer") from None
        except httpx2.HTTPError:  # its message may quote the reply
            raise UpstreamError("the model's server cannot be reached, or broke off") from None
        return _text(body)


async def _bounded(reply: httpx2.Response) -> bytes:
    body = b""
    async for part in reply.aiter_bytes():
        body += part
        if len(body) > LARGEST:
            raise UpstreamError("the model's server sent too much")
    return body


def _text(body: bytes) -> str:
    """The text of a reply with one whole answer.

    Raises:
        UpstreamError: It is none.
    """
    try:
        content: Any = json.loads(body)
        [choice] = content["choices"]
        text, why = choice["text"], choice["finish_reason"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UpstreamError("the model's server sent no completion") from None
    if not isinstance(text, str) or why not in WHOLE:
        raise UpstreamError("the model's server sent no whole answer")
    return text


def _authorization(path: str | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        key = Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"upstream_key: {path}: cannot be read as a key") from None
    return {"authorization": f"Bearer {key}"}
