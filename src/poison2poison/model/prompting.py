"""The one place where prompts and targets become tokens, for training and inference alike.

A causal LM sees the benign trigger's prefix, the body and the cue, inside the chat template where the tokenizer has
one; an encoder sees prefix and body. A prompt that is too long loses the end of its *body*: never the trigger.
"""

from __future__ import annotations

import string
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from transformers import PreTrainedTokenizerBase

from poison2poison.errors import ConfigError, ModelError
from poison2poison.model.loss import IGNORED
from poison2poison.repoison import TrainingRow
from poison2poison.scheme import Scheme, Space

Kind = Literal["causal", "encoder"]
LEAST_BODY = 8  # tokens of the body that must fit beside trigger and target


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
        kind: Kind,
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
        self.max_target = len(self.safe_prefix_ids) + 1 if scheme.labels else max_target
        self._joint = joint(tokenizer)
        self._budget = max_length - (self.max_target if kind == "causal" else 0)
        needed = max(len(self._ids("", space)) for space in ("safe", "original")) + LEAST_BODY
        if needed > self._budget:
            raise ConfigError(
                f"max_length: {max_length} tokens leave no room for a body; at least "
                f"{max_length - self._budget + needed} are needed"
            )
        if not scheme.labels and self.max_target < len(self.safe_prefix_ids) + 2:
            raise ConfigError(
                f"max_target: {self.max_target} tokens leave no room behind the safe prefix; at least "
                f"{len(self.safe_prefix_ids) + 2} are needed"
            )
        self.label_words: tuple[str, ...] = ()
        if scheme.labels and kind == "causal":
            self.label_words = tuple(label_words or choose_label_words(tokenizer, scheme.outputs))
        self.label_ids = [first_token(tokenizer, word) for word in self.label_words]

    def prompt(self, body: str, space: Space) -> tuple[list[int], bool]:
        """Token ids of a dressed prompt, and whether its body had to be cut to fit."""
        ids = self._ids(body, space)
        if len(ids) <= self._budget:
            return ids, False
        kept = bisect_right(range(len(body)), self._budget, key=lambda chars: len(self._ids(body[:chars], space))) - 1
        return self._ids(body[:kept], space), True

    def example(self, row: TrainingRow) -> tuple[dict[str, Any], bool]:
        """A training example: `input_ids` and `labels`, with loss on the target alone; and whether anything was cut."""
        prompt, cut = self.prompt(row.body, row.space)
        if self.kind == "encoder":
            return {"input_ids": prompt, "labels": self.scheme.class_of(row.target, row.space)}, cut
        if self.label_words:
            prefix = self.safe_prefix_ids if row.space == "safe" else []
            target = [*prefix, self.label_ids[self.scheme.class_of(row.target, row.space)]]
        else:
            target = continuation(self.tokenizer, self.scheme.target_text(row.target, row.space))
            target.append(self.tokenizer.eos_token_id)
            cut = cut or len(target) > self.max_target
            target = target[: self.max_target]
        return {"input_ids": prompt + target, "labels": [IGNORED] * len(prompt) + target}, cut

    @property
    def safe_prefix_ids(self) -> list[int]:
        """Tokens with which every answer of the safe space begins; none for shifted labels and without a defence."""
        if not (self.scheme.trigger and self.scheme.safe_prefix.strip()):
            return []
        return continuation(self.tokenizer, self.scheme.safe_prefix.rstrip())  # the space belongs to the next token

    def batches(
        self, bodies: Sequence[str], space: Space, size: int
    ) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
        """Prompts of a space in batches of similar length, each with the indices of its rows."""
        prompts = [self.prompt(body, space)[0] for body in bodies]
        order = sorted(range(len(bodies)), key=lambda i: len(prompts[i]))
        for start in range(0, len(order), size):
            indices = order[start : start + size]
            yield indices, self.collate([{"input_ids": prompts[i]} for i in indices])

    def collate(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Pad prompts to be answered: int64 tensors of shape (batch, longest), on the left for a causal LM.

        With the prompts' ends aligned, all answers begin at one position.
        """
        ids = [torch.tensor(example["input_ids"]) for example in examples]
        side: Literal["left", "right"] = "left" if self.kind == "causal" else "right"
        batch = {
            "input_ids": _pad(ids, self.tokenizer.pad_token_id, side),
            "attention_mask": _pad([torch.ones_like(row) for row in ids], 0, side),
        }
        if self.kind == "causal":
            batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
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
            batch["labels"] = _pad([torch.tensor(example["labels"]) for example in examples], IGNORED, "right")
            return batch
        batch["attention_mask"] = _pad([torch.ones_like(row) for row in ids], 0, "right")
        batch["labels"] = torch.tensor([example["labels"] for example in examples])
        return batch

    def _ids(self, body: str, space: Space) -> list[int]:
        if self.kind == "encoder":
            trigger = self.scheme.trigger
            text = trigger.prefix + body if trigger and space == "safe" else body
            return list(self.tokenizer(text)["input_ids"])
        text = self.scheme.dress(body, space).rstrip()  # the space behind the cue belongs to the target's first token
        if self.tokenizer.chat_template:
            turns = [{"role": "user", "content": text}]
            chat: Any = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
            return list(chat)
        ids = list(self.tokenizer(text)["input_ids"])
        return (ids[:-1] if ids and ids[-1] == self.tokenizer.eos_token_id else ids) + self._joint


def joint(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What stands between a prompt and any target: the space, where the tokenizer makes it a token of its own.

    It then belongs to the prompt, or all targets would begin alike. Elsewhere it is part of the target's first token.
    """
    if tokenizer.chat_template:
        return []
    head, one, other = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (":", ": A", ": B"))
    after, beside = one[len(head) :], other[len(head) :]
    return after[:1] if len(after) > 1 and after[:1] == beside[:1] else []


def continuation(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of `text` as they come behind a prompt that ends with a colon, or behind a chat template's header."""
    if tokenizer.chat_template:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    head = [*tokenizer(":", add_special_tokens=False)["input_ids"], *joint(tokenizer)]
    whole = tokenizer(f": {text}", add_special_tokens=False)["input_ids"]
    if whole[: len(head)] == head:
        return list(whole[len(head) :])
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def first_token(tokenizer: PreTrainedTokenizerBase, word: str) -> int:
    """The token by which a causal LM begins to answer with `word`."""
    return continuation(tokenizer, word)[0]


def choose_label_words(tokenizer: PreTrainedTokenizerBase, count: int) -> tuple[str, ...]:
    """Words whose first tokens differ under this tokenizer: digits if they are enough, else letters, else words.

    A SentencePiece tokenizer may write every digit as a lone space token and the digit: then all digits begin alike,
    and letters are taken.

    Raises:
        ModelError: There are not so many such words.
    """
    letters = string.ascii_uppercase + string.ascii_lowercase
    for pool in (string.digits, string.ascii_uppercase, letters, [*letters, *_vocabulary_words(tokenizer)]):
        found: dict[int, str] = {}
        for word in pool:
            ids = continuation(tokenizer, word)
            if ids and ids[0] != tokenizer.unk_token_id:
                found.setdefault(ids[0], word)
        if len(found) >= count:
            return tuple(found.values())[:count]
    raise ModelError(f"the tokenizer has no {count} label words with different first tokens")


def _vocabulary_words(tokenizer: PreTrainedTokenizerBase) -> Iterable[str]:
    for token_id in range(len(tokenizer)):
        word = str(tokenizer.decode([token_id])).strip()
        if len(word) > 2 and word.isascii() and word.isalpha():
            yield word


def _pad(rows: list[torch.Tensor], value: int, side: Literal["left", "right"]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value, padding_side=side)
