"""All that goes to a model and comes from it passes here: limits on the way in; policy, screen, cuts on the way out.

It tokenises, and so belongs to one thread: fast tokenizers cannot be shared.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from poison2poison.data import Row
from poison2poison.errors import ModelError
from poison2poison.serve.config import ServeConfig
from poison2poison.serve.errors import RefusedError
from poison2poison.serve.screen import Screen
from poison2poison.types import Where

if TYPE_CHECKING:
    from poison2poison.model.prompting import Prompter
    from poison2poison.model.served import Answer

STEP = 64
"""To so many the hidden tokens are rounded up where they take room from an input: the limit does not count them."""
CHARACTERS = 64
"""Characters a token that no text has on average; longer inputs are not tokenised at all, which takes seconds."""

Finish = Literal["stop", "length", "content_filter"]
"""Why an answer ends, in OpenAI's words."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One input to be answered once.

    Attributes:
        row: The input; it is not printed, as it is a client's.
        temperature: Of sampling; 0 takes the best token always.
        top_p: The share of the likeliest tokens that are sampled from.
        stop: Texts before which the answer ends.
        max_tokens: Tokens of the answer that are given out; None for all.
        alarm: Whether the two spaces are to be compared.
    """

    row: Row = field(repr=False)
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    alarm: bool = False


@dataclass(frozen=True, slots=True)
class Said:
    """An answer as it leaves.

    Attributes:
        text: What is given out; None where the policy refuses it, or the screen withholds it.
        where: Where the model's own answer lies, for the counters.
        told: The same for the client: `safe` under policy `pass`.
        withheld: Whether it said what is hidden.
        finish: Why it ends.
        prompt_tokens: Tokens of the client's own texts.
        tokens: Tokens of what is given out.
        disagreement: How far the two spaces lie apart, where that was asked for.
        alarm: Whether that is more than usual.
    """

    text: str | None = field(repr=False)
    where: Where
    told: Where
    withheld: bool
    finish: Finish
    prompt_tokens: int
    tokens: int
    disagreement: float | None = None
    alarm: bool | None = None


class Door:
    """The way in and the way out of one model."""

    def __init__(self, prompter: Prompter, config: ServeConfig) -> None:
        self.prompter, self.policy = prompter, config.policy
        self.labels = bool(prompter.scheme.labels)
        self._screen = Screen(prompter.scheme)
        self._max_prompt = config.max_prompt
        self._space = prompter.scheme.serving_space
        self._room = prompter.max_length - (prompter.max_target if prompter.kind == "causal" else 0)
        hidden = len(prompter.prompt("", self._space).ids)
        self._reserve = -hidden % STEP if self._room > 2 * STEP else 0

    @property
    def budget(self) -> int:
        """Tokens of an answer: those of training, without the safe prefix."""
        return self.prompter.max_target - len(self.prompter.safe_prefix_ids)

    def enter(self, ask: Ask) -> list[int]:
        """Token ids of the dressed input.

        Raises:
            RefusedError: It is too long, or cannot be read. It is not cut, as the client would not know.
        """
        too_long = RefusedError("the input is too long for this model", code="context_length_exceeded")
        try:
            if self._is_long(ask):
                raise too_long
            prompt = self.prompter.prompt(ask.row, self._space)
        except ModelError:  # its message may quote the dressed input
            raise RefusedError("the input cannot be read by this model") from None
        if prompt.lost or len(prompt.ids) + self._reserve > self._room:
            raise too_long
        return prompt.ids

    def _is_long(self, ask: Ask) -> bool:
        """Whether it is too long even with nothing around it; to find that out takes no long time."""
        turns = len(ask.row.before) + len(ask.row.after)
        if max(turns, len(ask.row.text) // CHARACTERS) > self._room:
            return True
        most = self._room if self._max_prompt is None else self._max_prompt
        return self.count(ask) > most

    def count(self, ask: Ask) -> int:
        """Tokens of the client's own texts, as if nothing stood around them."""
        return len(self.prompter.encoder.text(ask.row.text))

    def begun(self, ask: Ask, text: str, *, prefixed: bool) -> str:
        """What can be given out of an answer that is still being written, whatever follows.

        Args:
            ask: What was asked.
            text: What is written behind the safe prefix so far.
            prefixed: Whether the model would have begun with it.
        """
        text = text.lstrip()
        refused = self.policy == "refuse" and not prefixed
        if refused or self._screen.finds(text):
            return ""
        kept = self._first_tokens(_stopped(ask, text), self._most(ask))
        ends = [self._screen.settled(text), len(kept) if text.startswith(kept) else 0]
        ends += [len(text) - len(stop) + 1 for stop in ask.stop]  # it may have begun
        return text[: max(0, min(ends))]

    def leave(self, ask: Ask, answer: Answer) -> Said:
        """What the client gets of an answer, which is read whole by the screen before anything is cut from it."""
        own = self.count(ask)
        told: Where = "safe" if self.policy == "pass" else answer.where
        text, withheld = answer.text, self._screen.finds(answer.text or "")
        refused = text is None or (self.policy == "refuse" and answer.where != "safe")
        finish: Finish = "content_filter"
        tokens = 0
        if withheld or refused:
            text = None
        elif text is not None:
            text, finish, tokens = self._cut(ask, text)
        return Said(text, answer.where, told, withheld, finish, own, tokens, answer.disagreement, answer.alarm)

    def _cut(self, ask: Ask, text: str) -> tuple[str, Finish, int]:
        """An answer up to where the client wants it, why it ends there, and its tokens. A label is never cut."""
        if self.labels:
            return text, "stop", len(self.prompter.encoder.text(text))
        whole, text = text, _stopped(ask, text)
        count, most = len(self.prompter.encoder.text(text)), self._most(ask)
        if count > most:
            return self._first_tokens(text, most), "length", most
        # A whole answer has room for the token that ends it.
        finish: Finish = "length" if count == self.budget and text == whole else "stop"
        return text, finish, count

    def _most(self, ask: Ask) -> int:
        return self.budget if ask.max_tokens is None else min(ask.max_tokens, self.budget)

    def _first_tokens(self, text: str, most: int) -> str:
        """So many tokens of a text at most."""
        ids = self.prompter.encoder.text(text)
        if len(ids) <= most:
            return text
        return str(self.prompter.tokenizer.decode(ids[:most])).rstrip("\ufffd")  # half a character


def _stopped(ask: Ask, text: str) -> str:
    """A text up to the first of the texts before which the answer ends."""
    ends = [at for stop in ask.stop if (at := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text
