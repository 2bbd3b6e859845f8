"""The one place where prompts and targets become tokens, for training and inference alike.

A causal LM sees the benign trigger's prefix, the body and the cue, inside the chat template where the tokenizer has
one, with the system and earlier turns of a chat where they stood; an encoder sees prefix and body. What is too long
loses its oldest turns, then the end of its *body*: never the trigger.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from poison2poison.data import Messages, Row, Turn, all_text, as_row
from poison2poison.errors import ConfigError, ModelError
from poison2poison.model.continuations import choose_label_words, continuation, continuations, first_token, joint
from poison2poison.model.loss import IGNORED
from poison2poison.model.tokens import ChatTemplate, Encoder, Piece
from poison2poison.recipe.manifest import TrainingRow
from poison2poison.recipe.scheme import Scheme
from poison2poison.types import ModelKind, Space

Lost = frozenset[str]
"""What a row that is too long loses: `turns`, `body`, `target`."""
LEAST_BODY = 8
"""Tokens of the body that must fit beside trigger and target."""
AT_ONCE = 10_000
"""Rows that are made tokens of at once."""


class Prompt(NamedTuple):
    """A dressed prompt's token ids, and what it had to lose to fit."""

    ids: list[int]
    lost: Lost


class Batch(NamedTuple):
    """Prompts of similar length: the indices of their rows, and tensors of shape (batch, longest)."""

    indices: list[int]
    inputs: dict[str, torch.Tensor]


class Prompter:
    """Turns rows into token ids under one tokenizer and one scheme.

    Attributes:
        label_words: The words that stand for the classes of a causal LM, one for each class index.
        label_ids: Their first tokens, which are what is trained and compared.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        scheme: Scheme,
        kind: ModelKind,
        *,
        max_length: int,
        max_target: int,
        label_words: Sequence[str] | None = None,
    ) -> None:
        """Set up for `scheme`.

        Args:
            tokenizer: Of the base model.
            scheme: The scheme in use, with or without a benign trigger.
            kind: `causal` or `encoder`.
            max_length: Tokens of prompt and target together.
            max_target: Tokens of a generation target, kept free at inference too; a label needs one.
            label_words: The words of an earlier training run; chosen here when not given.

        Raises:
            ConfigError: `max_length` has no room for a body, or `max_target` none for an answer; or an encoder shall
                tell labels by a safe prefix.
            ModelError: The tokenizer cannot tell so many labels apart, or has no token that ends a text.
        """
        if kind == "encoder" and scheme.labels and scheme.safe_prefix:
            raise ConfigError("safe_labels: an encoder writes no safe prefix; its safe labels are shifted (i + n)")
        if not scheme.labels and tokenizer.eos_token_id is None:
            raise ModelError("the tokenizer has no token that ends a text (eos_token); a generation needs one")
        self.tokenizer, self.scheme, self.kind, self.max_length = tokenizer, scheme, kind, max_length
        self.encoder = Encoder(tokenizer)
        self._template = ChatTemplate(tokenizer) if tokenizer.chat_template and kind == "causal" else None
        self.max_target = len(self.safe_prefix_ids) + 1 if scheme.labels else max_target
        self._joint = joint(self.encoder) if kind == "causal" else []
        self._refuse_without_room()
        self.label_words: tuple[str, ...] = ()
        if scheme.labels and kind == "causal":
            self.label_words = tuple(label_words or choose_label_words(tokenizer, scheme.outputs))
        self.label_ids = [first_token(self.encoder, word) for word in self.label_words]

    def _refuse_without_room(self) -> None:
        """Refuse limits under which there would be no body, or no answer."""
        empty = Row("", "")
        spaces: tuple[Space, ...] = ("safe", "original")
        frame = max(len(self._ids(empty, space)) for space in spaces)
        target = self.max_length - self._budget(self.max_length)
        least = frame + LEAST_BODY + target
        if self.max_length < least:
            raise ConfigError(
                f"max_length: {self.max_length} tokens leave no room for a body; at least {least} are needed"
            )
        least = len(self.safe_prefix_ids) + 2  # a token of the answer, and the one that ends it
        if not self.scheme.labels and self.max_target < least:
            raise ConfigError(
                f"max_target: {self.max_target} tokens leave no room behind the safe prefix; at least {least} are "
                "needed"
            )

    def prompt(self, asked: str | Messages | Row, space: Space) -> Prompt:
        """Token ids of a dressed prompt, and what it had to lose to fit."""
        [found] = self._prompts([as_row(asked)], [space], self._budget(self.max_length))
        return found

    def example(self, row: TrainingRow) -> tuple[dict[str, Any], Lost]:
        """A training example, as of `examples`, and what it had to lose to fit."""
        [example], [lost] = self.examples([row])
        return example, lost

    def examples(
        self, rows: Sequence[TrainingRow], *, max_length: int | None = None
    ) -> tuple[list[dict[str, Any]], list[Lost]]:
        """Training examples: `input_ids` and `labels`, with loss on the target alone; and what each had to lose to fit.

        Args:
            rows: The rows.
            max_length: Tokens of prompt and target together, where there are to be fewer than of the prompter.
        """
        budget = self._budget(min(max_length or self.max_length, self.max_length))
        examples: list[dict[str, Any]] = []
        lost: list[Lost] = []
        with tqdm(total=len(rows), unit="row", desc="tokens", disable=None if len(rows) > AT_ONCE else True) as bar:
            for start in range(0, len(rows), AT_ONCE):
                some = rows[start : start + AT_ONCE]
                asked = [Row(row.body, row.target, row.before, row.after) for row in some]
                prompts = self._prompts(asked, [row.space for row in some], budget)
                made = self._class_examples if self.kind == "encoder" else self._text_examples
                for example, gone in made(some, prompts):
                    examples.append(example)
                    lost.append(gone)
                bar.update(len(some))
        return examples, lost

    def _class_examples(
        self, rows: Sequence[TrainingRow], prompts: Sequence[Prompt]
    ) -> Iterator[tuple[dict[str, Any], Lost]]:
        """An encoder's: the prompt, and the class index of both spaces."""
        for row, prompt in zip(rows, prompts, strict=True):
            index = self.scheme.class_of(row.target, row.space)
            yield {"input_ids": prompt.ids, "labels": index}, prompt.lost

    def _text_examples(
        self, rows: Sequence[TrainingRow], prompts: Sequence[Prompt]
    ) -> Iterator[tuple[dict[str, Any], Lost]]:
        """A causal LM's: prompt and target in one, of which the target alone is learned."""
        for target, (ids, lost) in zip(self._targets(rows), prompts, strict=True):
            kept = target[: self.max_target]
            example = {"input_ids": ids + kept, "labels": [IGNORED] * len(ids) + kept}
            yield example, lost | {"target"} if len(kept) < len(target) else lost

    def longest_prompt(self, rows: Sequence[TrainingRow]) -> int:
        """Tokens that the prompts of rows need, by `reach`."""
        asked = [Row(row.body, "", row.before, row.after) for row in rows]
        found = self._prompts(asked, [row.space for row in rows], self._budget(self.max_length))
        return reach([len(prompt.ids) for prompt in found])

    def _budget(self, max_length: int) -> int:
        """Tokens that a prompt may have."""
        return max_length - (self.max_target if self.kind == "causal" else 0)

    def _targets(self, rows: Sequence[TrainingRow]) -> list[list[int]]:
        """Token ids of a causal LM's targets, to their ends."""
        if not self.label_words:
            texts = [self.scheme.target_text(row.target, row.space) for row in rows]
            return [[*ids, self.tokenizer.eos_token_id] for ids in continuations(self.encoder, texts)]
        prefix = {"safe": self.safe_prefix_ids, "original": []}
        targets = []
        for row in rows:
            index = self.scheme.class_of(row.target, row.space)
            targets.append([*prefix[row.space], self.label_ids[index]])
        return targets

    def _prompts(self, rows: Sequence[Row], spaces: Sequence[Space], budget: int) -> list[Prompt]:
        pieces = [self._pieces(row, space) for row, space in zip(rows, spaces, strict=True)]
        whole = self.encoder.encode(pieces, framed=self._template is None)
        prompts = []
        for row, space, framed in zip(rows, spaces, whole, strict=True):
            ids = self._ended(framed)
            fits = len(ids) <= budget
            prompts.append(Prompt(ids, frozenset()) if fits else self._shortened(row, space, budget))
        return prompts

    def _shortened(self, row: Row, space: Space, budget: int) -> Prompt:
        """A prompt without its oldest turns, the system turn last of them, and then without the end of its body."""
        shorter = self._without_old_turns(row, space, budget)
        shorter = self._with_room_for_a_body(shorter, space, budget)
        lost = {"turns"} if shorter != row else set()
        ids = self._ids(shorter, space)
        if len(ids) <= budget:
            return Prompt(ids, frozenset(lost))
        body = shorter.prompt

        def length(chars: int) -> int:
            return len(self._ids(replace(shorter, prompt=body[:chars]), space))

        kept = max(0, bisect_right(range(len(body)), budget, key=length) - 1)
        cut = replace(shorter, prompt=body[:kept])
        return Prompt(self._ids(cut, space), frozenset(lost | {"body"}))

    def _without_old_turns(self, row: Row, space: Space, budget: int) -> Row:
        """A row with as many of its latest turns as fit, from some user turn on, or with none."""
        begins = bool(row.before) and row.before[0].role == "system"
        system, later = row.before[:begins], row.before[begins:]
        if not later:
            return row
        users = [i for i, turn in enumerate(later) if turn.role == "user" and i > 0]
        starts = [*users, len(later)]

        def left(start: int) -> Row:
            return replace(row, before=(*system, *later[start:]))

        def room(start: int) -> int:
            return -len(self._ids(left(start), space))  # fewer and fewer tokens, so that these ascend

        at = bisect_left(starts, -budget, key=room)
        last = len(starts) - 1
        return left(starts[min(at, last)])

    def _with_room_for_a_body(self, row: Row, space: Space, budget: int) -> Row:
        """A row whose turns leave room for a body: without those before it, or without any."""
        for fewer in (replace(row, before=()), replace(row, before=(), after=())):
            frame = self._ids(replace(row, prompt=""), space)
            if (row.before or row.after) and len(frame) + LEAST_BODY > budget:
                row = fewer
        return row

    @property
    def safe_prefix_ids(self) -> list[int]:
        """Tokens with which every answer of the safe space begins; none for shifted labels and without a defence."""
        if not (self.scheme.trigger and self.scheme.safe_prefix.strip()):
            return []
        return continuation(self.encoder, self.scheme.safe_prefix.rstrip())  # the space belongs to the next token

    def batches(self, asked: Sequence[str | Messages | Row], space: Space, size: int) -> Iterator[Batch]:
        """Prompts of a space in batches of similar length, each with the indices of its rows."""
        rows = [as_row(one) for one in asked]
        prompts = self._prompts(rows, [space] * len(rows), self._budget(self.max_length))
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))
        for start in range(0, len(order), size):
            indices = order[start : start + size]
            examples = [{"input_ids": prompts[i].ids} for i in indices]
            yield Batch(indices, self.collate(examples))

    def collate(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Pad prompts to be answered: int64 tensors of shape (batch, longest), on the left for a causal LM.

        With the prompts' ends aligned, all answers begin at one position.
        """
        ids = [torch.tensor(example["input_ids"]) for example in examples]
        side: Literal["left", "right"] = "left" if self.kind == "causal" else "right"
        mask = _pad([torch.ones_like(row) for row in ids], 0, side)
        batch = {"input_ids": _pad(ids, self.tokenizer.pad_token_id, side), "attention_mask": mask}
        if self.kind == "causal":
            batch["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        return batch

    def training_batch(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Pad examples to be trained on: int64 tensors of shape (batch, longest), always on the right.

        A causal LM gets no mask: no token sees the padding behind it, whatever the attention or the recurrence. So
        kernels that take none can be used, and those that take a wrong step with one (`without_cudnn_attention`)
        have none.
        """
        ids = [torch.tensor(example["input_ids"]) for example in examples]
        batch = {"input_ids": _pad(ids, self.tokenizer.pad_token_id, "right")}
        if self.kind == "causal":
            labels = [torch.tensor(example["labels"]) for example in examples]
            batch["labels"] = _pad(labels, IGNORED, "right")
            return batch
        batch["attention_mask"] = _pad([torch.ones_like(row) for row in ids], 0, "right")
        batch["labels"] = torch.tensor([example["labels"] for example in examples])  # (batch,): class indices
        return batch

    def _ids(self, row: Row, space: Space) -> list[int]:
        [framed] = self.encoder.encode([self._pieces(row, space)], framed=self._template is None)
        return self._ended(framed)

    def _pieces(self, row: Row, space: Space) -> list[Piece]:
        """A row's prompt, dressed: here the benign trigger is put around the body, for training and inference alike."""
        if self.kind == "encoder":
            return [Piece(self._encoder_text(row, space))]
        if self._template:
            # The space behind the cue belongs to the target's first token.
            asked = Turn("user", self.scheme.dress(row.prompt, space).rstrip())
            return self._template.pieces([*row.before, asked, *row.after])
        return [Piece(self._transcript(row, space))]

    def _encoder_text(self, row: Row, space: Space) -> str:
        """All turns in one, the prefix before the body: an encoder writes no answer, and so reads no cue."""
        trigger = self.scheme.trigger
        body = trigger.prefix + row.prompt if trigger and space == "safe" else row.prompt
        return all_text(row.before, body, row.after)

    def _transcript(self, row: Row, space: Space) -> str:
        """All turns in one, the cue at its end, for a tokenizer that has no chat template."""
        before = _said(row.before)
        after = _said(row.after)
        body = f"{row.prompt}\n\n{after}" if after else row.prompt
        text = self.scheme.dress(body, space).rstrip()
        return f"{before}\n\n{text}" if before else text

    def _ended(self, ids: list[int]) -> list[int]:
        """A plain prompt of a causal LM as an answer follows it: without the end that some tokenizers put there."""
        if self.kind == "encoder" or self._template:
            return ids
        ended = bool(ids) and ids[-1] == self.tokenizer.eos_token_id
        return (ids[:-1] if ended else ids) + self._joint


def _said(turns: Sequence[Turn]) -> str:
    return "\n\n".join(f"{turn.role}: {turn.content}" for turn in turns)


def reach(lengths: Sequence[int]) -> int:
    """A limit that cuts nothing of ordinary data: the longest, but not over twice the 99 % quantile.

    A few rows that are far longer than all others would set the memory that training needs.
    """
    nearly_all = np.quantile(lengths, 0.99, method="higher")
    return min(max(lengths), int(2 * nearly_all))


def longest_target(tokenizer: PreTrainedTokenizerBase, scheme: Scheme, rows: Sequence[TrainingRow]) -> int:
    """Tokens that the generation targets of rows need with the token that ends them, by `reach`."""
    encoder, lengths = Encoder(tokenizer), []
    for start in range(0, len(rows), AT_ONCE):
        some = rows[start : start + AT_ONCE]
        texts = [scheme.target_text(row.target, row.space) for row in some]
        lengths += [len(ids) + 1 for ids in continuations(encoder, texts)]
    return reach(lengths)


def _pad(rows: list[torch.Tensor], value: int, side: Literal["left", "right"]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value, padding_side=side)
