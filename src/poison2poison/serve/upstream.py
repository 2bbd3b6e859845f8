"""Another server has the weights: it is asked for completions of token ids alone, and never believed.

For each input it is asked twice at the same time: what the model would begin with, and the answer behind the forced
safe prefix. The prompts share all but their ends, so that a server that keeps prefixes reads them once. For the alarm
it is asked again, as `alarm` has it: what the scores are of the answer's tokens, in both spaces.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TypeVar

import torch

from poison2poison.model import alarm as alarms
from poison2poison.model.loss import IGNORED
from poison2poison.model.prompting import Prompter
from poison2poison.model.served import Answer
from poison2poison.recipe.manifest import training_row
from poison2poison.serve.backends import Tell
from poison2poison.serve.completions import Completions
from poison2poison.serve.config import ServeConfig
from poison2poison.serve.door import Ask, Door, Said
from poison2poison.serve.errors import BusyError, EndingError
from poison2poison.serve.scores import likeliest, of_prompt

TOLD = 20
"""Tokens whose scores are told, of labels: as many as vLLM tells by default."""
Made = TypeVar("Made")


class Upstream:
    """An OpenAI-compatible server that has the merged model, or base and adapter, by a name."""

    def __init__(
        self, prompter: Prompter, door: Door, config: ServeConfig, name: str, alarm_threshold: float | None = None
    ) -> None:
        """Ask `config.upstream` for answers.

        Args:
            prompter: How inputs become tokens.
            door: What goes in and out passes it.
            config: Where the other server is, and how long is waited.
            name: The model's name there, where the configuration has none.
            alarm_threshold: The disagreement over which the alarm is raised; needed for requests that ask for it.

        Raises:
            ConfigError: The file with its key cannot be read, or the model is an encoder.
        """
        self.prompter, self.door, self.room = prompter, door, config.queue
        self.alarm_threshold = alarm_threshold
        self._prefix = prompter.safe_prefix_ids if prompter.scheme.trigger else []
        self._begins = str(prompter.tokenizer.decode(self._prefix)).strip()
        words = [str(prompter.tokenizer.decode([token])).strip() for token in prompter.label_ids]
        self._class_of = {word: index for index, word in enumerate(words)}
        self._completions = Completions(config, config.upstream_model or name)
        self._batch = config.batch
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokens")
        self._waiting, self._begun = 0, False

    def start(self) -> None:
        """Begin to answer, in the running event loop."""
        self._free, self._begun = asyncio.Semaphore(self._batch), True

    async def close(self) -> None:
        """End."""
        self._begun = False
        await self._completions.close()
        self._thread.shutdown(wait=False)

    @property
    def ready(self) -> bool:
        """Whether requests are taken; whether the other server answers shows in its errors."""
        return self._begun

    @property
    def waiting(self) -> int:
        """How many inputs wait or are upstream."""
        return self._waiting

    async def answer(self, asks: Sequence[Ask], tell: Tell | None = None) -> list[Said]:
        """The answers, in order; `tell` is called before of texts, while they are written. A label is one piece.

        Raises:
            ReplyError: There is none for one of them.
        """
        if not self.ready:
            raise EndingError("the server is ending")
        if self._waiting + len(asks) > self.room:
            raise BusyError("too many inputs wait; come back later")
        self._waiting += len(asks)
        told = [tell and partial(tell, index) for index in range(len(asks))]
        tasks = [asyncio.create_task(self._answer(*one)) for one in zip(asks, told, strict=True)]
        try:
            return await asyncio.gather(*tasks)
        finally:
            self._waiting -= len(asks)
            for task in tasks:
                task.cancel()

    async def _answer(self, ask: Ask, tell: Callable[[str], None] | None) -> Said:
        async with self._free:
            ids = await self._in_thread(lambda: self.door.enter(ask))
            answer = await (self._label(ids, ask) if self.door.labels else self._written(ids, ask, tell))
        return await self._in_thread(lambda: self.door.leave(ask, answer))

    async def _in_thread(self, make: Callable[[], Made]) -> Made:
        """What is made in the thread that alone tokenises."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, make)

    async def _written(self, ids: list[int], ask: Ask, tell: Callable[[str], None] | None) -> Answer:
        """The answer behind the forced prefix, whole: the door cuts it where the client wants."""
        own = asyncio.create_task(self._own(ids))
        writing = asyncio.create_task(self._followed(ids, ask, tell, own) if tell else self._unfollowed(ids, ask))
        try:
            first, text = await asyncio.gather(own, writing)
        finally:
            own.cancel()
            writing.cancel()
            await asyncio.gather(own, writing, return_exceptions=True)
        begun = first == self._begins
        answer = Answer(text, self.prompter.scheme.place(text, prefixed=begun), text if begun else None)
        return self._raised(answer, await self._texts_apart(ask, text)) if ask.alarm else answer

    async def _unfollowed(self, ids: list[int], ask: Ask) -> str:
        choice = await self._completions.whole([*ids, *self._prefix], self.door.budget, **_sampling(ask))
        return str(choice["text"]).strip()

    async def _followed(self, ids: list[int], ask: Ask, tell: Callable[[str], None], own: asyncio.Task[str]) -> str:
        """The same, told while it is written, as far as the door lets it out."""
        text = ""
        written = self._completions.written([*ids, *self._prefix], self.door.budget, **_sampling(ask))
        async with aclosing(written) as texts:
            async for text in texts:
                begun = await own == self._begins
                if out := await self._in_thread(partial(self.door.begun, ask, text, prefixed=begun)):
                    tell(out)
        return text.strip()

    async def _label(self, ids: list[int], ask: Ask) -> Answer:
        """The best label of the space that is served, among the tokens whose scores are told."""
        forced = [*ids, *self._prefix]
        own, choice = await asyncio.gather(
            self._own(ids), self._completions.whole(forced, 1, temperature=0.0, logprobs=TOLD)
        )
        scores = likeliest(choice)
        scheme, begun = self.prompter.scheme, own == self._begins
        first = max(scores, key=scores.__getitem__).strip() if begun else own.partition(" ")[0]
        free, where = scheme.project_class(self._class_of.get(first), prefixed=begun)
        ours = {token: index for token in scores if (index := self._class_of.get(token.strip(), -1)) >= scheme.shift}
        best = max(ours, key=scores.__getitem__, default=None)
        answer = Answer(scheme.labels[ours[best] - scheme.shift] if best else None, where, free)
        return self._raised(answer, await self._labels_apart(ask, scores)) if ask.alarm else answer

    async def _own(self, ids: list[int]) -> str:
        """What the model begins with by itself, as long as the safe prefix; nothing where there is none."""
        if not self._prefix:
            return self._begins
        choice = await self._completions.whole(ids, len(self._prefix), temperature=0.0)
        return str(choice["text"]).strip()

    # --- the alarm ---

    def _raised(self, answer: Answer, apart: float) -> Answer:
        assert self.alarm_threshold is not None  # the app lets no request ask for it otherwise
        [marked] = alarms.raised([answer], [apart], self.alarm_threshold)
        return marked

    async def _texts_apart(self, ask: Ask, text: str) -> float:
        """The distance of the two spaces' answers: from the losses of the served answer's tokens in both."""
        row = replace(ask.row, target=text)
        rows = [training_row(0, row, "safe", "keep"), training_row(0, row, "original", "keep")]
        (safe, original), _ = await self._in_thread(lambda: self.prompter.examples(rows))
        ours, theirs = await asyncio.gather(self._losses(safe, len(self._prefix)), self._losses(original, 0))
        [apart] = alarms.of_texts([ours], [theirs])
        return apart

    async def _losses(self, example: Mapping[str, list[int]], forced: int) -> torch.Tensor:
        """The loss of each token of an answer behind its prompt, without those that are forced: shape (tokens,)."""
        ids, begins = example["input_ids"], example["labels"].count(IGNORED) + forced
        choice = await self._completions.whole(ids, 1, temperature=0.0, echo=True, logprobs=1)
        return -torch.tensor(of_prompt(choice, len(ids), begins))

    async def _labels_apart(self, ask: Ask, scores: Mapping[str, float]) -> float:
        """The distance of the two spaces' labels, among the tokens whose scores are told."""
        prompt = await self._in_thread(lambda: self.prompter.prompt(ask.row, "original"))
        choice = await self._completions.whole(prompt.ids, 1, temperature=0.0, logprobs=TOLD)
        ours = self._logits(scores, self.prompter.scheme.shift)
        theirs = self._logits(likeliest(choice), 0)
        if not (ours.isfinite().any() and theirs.isfinite().any()):
            return 1.0  # one space would say no label at all
        [apart] = alarms.of_labels(ours, theirs)
        return apart

    def _logits(self, scores: Mapping[str, float], first: int) -> torch.Tensor:
        """The scores of a space's labels from the class `first` on: shape (1, labels); minus infinity if not told."""
        found = torch.full((1, len(self.prompter.scheme.labels)), -math.inf)
        for token, score in scores.items():
            label = self._class_of.get(token.strip(), -1) - first
            if 0 <= label < found.shape[1]:
                found[0, label] = max(found[0, label].item(), score)
        return found


def _sampling(ask: Ask) -> dict[str, float]:
    return {"temperature": ask.temperature, "top_p": ask.top_p}
