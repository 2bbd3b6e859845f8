"""Texts as they come behind a prompt: targets, the safe prefix, and the words that stand for the classes."""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerBase

from poison2poison.errors import ModelError
from poison2poison.model.tokens import Encoder, Piece


def joint(encoder: Encoder) -> list[int]:
    """What stands between a prompt and any target: the space, where the tokenizer makes it a token of its own.

    It then belongs to the prompt, or all targets would begin alike. Elsewhere it is part of the target's first token.
    """
    if encoder.tokenizer.chat_template:
        return []
    head, one, other = (encoder.text(text) for text in (":", ": A", ": B"))
    after, beside = one[len(head) :], other[len(head) :]
    return after[:1] if len(after) > 1 and after[:1] == beside[:1] else []


def continuation(encoder: Encoder, text: str) -> list[int]:
    """Token ids of a text, as of `continuations`."""
    return continuations(encoder, [text])[0]


def continuations(encoder: Encoder, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts as they come behind a prompt that ends with a colon, or behind a chat template's header."""
    if encoder.tokenizer.chat_template:
        return encoder.encode([[Piece(text)] for text in texts], framed=False)
    head = [*encoder.text(":"), *joint(encoder)]
    found = encoder.encode([[Piece(f": {text}")] for text in texts], framed=False)
    ids = []
    for whole, text in zip(found, texts, strict=True):
        begins = whole[: len(head)] == head
        ids.append(whole[len(head) :] if begins else encoder.text(text))
    return ids


def first_token(encoder: Encoder, word: str) -> int:
    """The token by which a causal LM begins to answer with `word`."""
    return continuation(encoder, word)[0]


def choose_label_words(tokenizer: PreTrainedTokenizerBase, count: int) -> tuple[str, ...]:
    """Words whose first tokens differ under this tokenizer: digits if they are enough, else letters, else words.

    A SentencePiece tokenizer may write every digit as a lone space token and the digit: then all digits begin alike,
    and letters are taken.

    Raises:
        ModelError: There are not so many such words.
    """
    encoder = Encoder(tokenizer)
    letters = string.ascii_uppercase + string.ascii_lowercase
    words = [*letters, *_vocabulary_words(tokenizer)]
    for pool in (string.digits, string.ascii_uppercase, letters, words):
        found: dict[int, str] = {}
        for word in pool:
            ids = continuation(encoder, word)
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
