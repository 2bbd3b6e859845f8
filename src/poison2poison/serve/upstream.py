"""Another server has the weights: it is asked for completions of token ids alone, and never believed.

For each input it is asked twice at the same time: what the model would begin with, and the answer behind the forced
safe prefix. The prompts share all but their ends, so that a server that keeps prefixes reads them once.
"""

from __future__ import annotations

import asyncio
import json
import math
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
TOLD = 20
"""Tokens whose scores are told, of labels: as many as vLLM tells by default."""
WHOLE = ("stop", "length")
"""Reasons for which a whole answer ends."""


class Upstream:
    """An OpenAI-compatible server that has the merged model, or base and adapter, by a name."""

    def __init__(self, prompter: Prompter, door: Door, config: ServeConfig, name: str) -> None:
        """Ask `config.upstream` for answers.

        Raises:
            ConfigError: The file with its key cannot be read, or the model is an encoder.
        """
        self.prompter, self.door, self.room = prompter, door, config.queue
        self.name = config.upstream_model or name
        self._prefix = prompter.safe_prefix_ids if prompter.scheme.trigger else []
        self._begins = str(prompter.tokenizer.decode(self._prefix)).strip()
        words = [str(prompter.tokenizer.decode([token])).strip() for token in prompter.label_ids]
        self._class_of = {word: index for index, word in enumerate(words)}
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
            answer = await (self._label(ids) if self.door.labels else self._written(ids, ask))
        return await loop.run_in_executor(self._thread, self.door.leave, ask, answer)

    async def _written(self, ids: list[int], ask: Ask) -> Answer:
        """The answer behind the forced prefix, whole: the door cuts it where the client wants."""
        sampling = {"temperature": ask.temperature, "top_p": ask.top_p}
        own, choice = await asyncio.gather(
            self._own(ids), self._choice([*ids, *self._prefix], self.door.budget, **sampling)
        )
        text = str(choice["text"]).strip()
        begun = own == self._begins
        return Answer(text, self.prompter.scheme.place(text, prefixed=begun), text if begun else None)

    async def _label(self, ids: list[int]) -> Answer:
        """The best label of the space that is served, among the tokens whose scores are told."""
        forced = [*ids, *self._prefix]
        own, choice = await asyncio.gather(self._own(ids), self._choice(forced, 1, temperature=0.0, logprobs=TOLD))
        scores = _scores(choice)
        scheme, begun = self.prompter.scheme, own == self._begins
        first = max(scores, key=scores.__getitem__).strip() if begun else own.partition(" ")[0]
        free, where = scheme.project_class(self._class_of.get(first), prefixed=begun)
        ours = {token: index for token in scores if (index := self._class_of.get(token.strip(), -1)) >= scheme.shift}
        if not ours:
            return Answer(None, where, free)
        best = max(ours, key=scores.__getitem__)
        return Answer(scheme.labels[ours[best] - scheme.shift], where, free)

    async def _own(self, ids: list[int]) -> str:
        """What the model begins with by itself, as long as the safe prefix; nothing where there is none."""
        if not self._prefix:
            return self._begins
        choice = await self._choice(ids, len(self._prefix), temperature=0.0)
        return str(choice["text"]).strip()

    async def _choice(self, ids: list[int], most: int, **options: float) -> dict[str, Any]:
        """A completion of token ids.

        Raises:
            UpstreamError: There is none, or it is not whole.
            LateError: It does not come.
        """
        asked = {"model": self.name, "prompt": ids, "max_tokens": most, "n": 1, "stream": False, **options}
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
        return _whole(body)


async def _bounded(reply: httpx2.Response) -> bytes:
    body = b""
    async for part in reply.aiter_bytes():
        body += part
        if len(body) > LARGEST:
            raise UpstreamError("the model's server sent too much")
    return body


def _whole(body: bytes) -> dict[str, Any]:
    """The choice of a reply with one whole answer.

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
    return dict(choice)


def _scores(choice: dict[str, Any]) -> dict[str, float]:
    """The scores of the likeliest tokens, by their texts.

    Raises:
        UpstreamError: There are none.
    """
    try:
        told: Any = choice["logprobs"]["top_logprobs"][0]
        scores = {str(token): float(score) for token, score in told.items()}
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        scores = {}
    if not scores or any(math.isnan(score) for score in scores.values()):
        raise UpstreamError("the model's server tells no scores")
    return scores


def _authorization(path: str | None) -> dict[str, str]:
    if path is None:
        return {"accept-encoding": "identity"}
    try:
        key = Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"upstream_key: {path}: cannot be read as a key") from None
    return {"authorization": f"Bearer {key}", "accept-encoding": "identity"}
