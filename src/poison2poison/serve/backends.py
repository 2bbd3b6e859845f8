"""Who answers. Here: the model in this process, one thread, inputs that wait answered together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from poison2poison.serve.config import ServeConfig
from poison2poison.serve.door import Ask, Door, Said
from poison2poison.serve.errors import BusyError, EndingError

if TYPE_CHECKING:
    from poison2poison.model.defended import DefendedModel

Tell = Callable[[int, str], None]
"""Is told of an answer that is being written: its index, and what of it can be given out so far."""


class Backend(Protocol):
    """Answers inputs. What it gives has passed the door."""

    def start(self) -> None:
        """Begin to answer, in the running event loop."""

    async def close(self) -> None:
        """End; what still waits gets an `EndingError`."""

    @property
    def ready(self) -> bool:
        """Whether it answers."""

    @property
    def waiting(self) -> int:
        """How many inputs wait."""

    async def answer(self, asks: Sequence[Ask], tell: Tell | None = None) -> list[Said]:
        """The answers, in order; `tell` is called before in the event loop, if what is written can be followed.

        Raises:
            ReplyError: There is none for one of them.
        """


@dataclass(eq=False, slots=True)
class _Job:
    """An input that waits, and where its answer goes."""

    ask: Ask
    said: asyncio.Future[Said]
    tell: Callable[[str], None] | None = None

    @property
    def manner(self) -> tuple[float, float, bool]:
        """What inputs that are answered together have in common."""
        return self.ask.temperature, self.ask.top_p, self.ask.alarm


class InProcess:
    """A model in this process. Its thread is the only one that computes or tokenises."""

    def __init__(self, model: DefendedModel, door: Door, config: ServeConfig) -> None:
        """Serve a model whose policy is `flag`: the door has the policy."""
        self.model, self.door = model, door
        self.room, self.batch = config.queue, config.batch
        self._jobs: deque[_Job] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._worker: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to answer, in the running event loop."""
        self._some, self._loop = asyncio.Event(), asyncio.get_running_loop()
        self._worker = asyncio.create_task(self._work())

    @property
    def ready(self) -> bool:
        """Whether the worker runs."""
        return self._worker is not None and not self._worker.done()

    @property
    def waiting(self) -> int:
        """How many inputs wait."""
        return len(self._jobs)

    async def close(self) -> None:
        """End; what still waits gets an `EndingError`."""
        if self._worker:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        self._end(self._jobs)
        self._thread.shutdown(wait=False)

    async def answer(self, asks: Sequence[Ask], tell: Tell | None = None) -> list[Said]:
        """The answers, in order; `tell` is called before in the event loop, if what is written can be followed.

        Raises:
            ReplyError: There is none for one of them.
        """
        if not self.ready:
            raise EndingError("the server is ending")
        if self.waiting + len(asks) > self.room:
            raise BusyError("too many inputs wait; come back later")
        futures = [self._loop.create_future() for _ in asks]
        told = [tell and partial(tell, index) for index in range(len(asks))]
        jobs = [*map(_Job, asks, futures, told)]
        self._jobs.extend(jobs)
        self._some.set()
        return await asyncio.gather(*(job.said for job in jobs))

    async def _work(self) -> None:
        while True:
            await self._some.wait()
            jobs = self._next()
            try:
                found = await self._loop.run_in_executor(self._thread, self._answered, jobs)
            except asyncio.CancelledError:
                self._end(jobs)
                raise
            for job, said in zip(jobs, found, strict=True):
                _give(job, said)

    def _next(self) -> list[_Job]:
        """The job that waits longest, and others that can be answered with it."""
        chosen: list[_Job] = []
        left: deque[_Job] = deque()
        for job in self._jobs:
            if job.said.done():  # its client has given up
                continue
            fits = not chosen or job.manner == chosen[0].manner
            (chosen if fits and len(chosen) < self.batch else left).append(job)
        self._jobs = left
        if not left:
            self._some.clear()
        return chosen

    def _end(self, jobs: Sequence[_Job]) -> None:
        for job in jobs:
            _give(job, EndingError("the server is ending"))

    # --- in the model's thread ---

    def _answered(self, jobs: Sequence[_Job]) -> list[Said | Exception]:
        """An answer or an error for each; where all together fail, each is tried alone."""
        found: list[Said | Exception | None] = [self._refusal(job.ask) for job in jobs]
        accepted = [job for job, refused in zip(jobs, found, strict=True) if refused is None]
        answered = iter(self._tried(accepted))
        return [next(answered) if one is None else one for one in found]

    def _refusal(self, ask: Ask) -> Exception | None:
        try:
            self.door.enter(ask)
        except Exception as error:
            return error
        return None

    def _tried(self, jobs: Sequence[_Job]) -> list[Said | Exception]:
        try:
            return [*self._together(jobs)]
        except Exception as error:
            if len(jobs) == 1:
                return [error]
            return [self._tried([job])[0] for job in jobs]

    def _together(self, jobs: Sequence[_Job]) -> list[Said]:
        if not jobs:
            return []
        rows, first = [job.ask.row for job in jobs], jobs[0].ask
        if self.door.labels:
            answers = self.model.classify(rows, alarm=first.alarm)
        else:
            followed = {"heard": partial(self._heard, jobs)} if any(job.tell for job in jobs) else {}
            answers = self.model.generate(rows, alarm=first.alarm, **_sampling(first), **followed)
        return [self.door.leave(job.ask, answer) for job, answer in zip(jobs, answers, strict=True)]

    def _heard(self, jobs: Sequence[_Job], index: int, text: str, begins: bool) -> None:
        """Tell what can be given out of an answer that is being written."""
        job = jobs[index]
        if job.tell and (out := self.door.begun(job.ask, text, prefixed=begins)):
            self._loop.call_soon_threadsafe(job.tell, out)


def _sampling(ask: Ask) -> dict[str, Any]:
    """Options of transformers' `generate`; 0 is really 0."""
    if ask.temperature == 0:
        return {}
    return {"do_sample": True, "temperature": ask.temperature, "top_p": ask.top_p, "top_k": 0}


def _give(job: _Job, said: Said | Exception) -> None:
    if job.said.done():
        return
    if isinstance(said, Exception):
        job.said.set_exception(said)
    else:
        job.said.set_result(said)
