"""Tokenizers of the kinds in use, trained on a few sentences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from poison2poison.reference import MODEL_DIR

TEXT = ["The answer is A or B, and 0 1 2 3 4 5 6 7 8 9 are numbers.", "Yes: no, Answer: Output: words here"] * 50


TEXT += ["The query currently entered is: Yes or no Answer: Safe answer: words here"]


TEXT += [" ".join("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")] * 5


def byte_level(*, leading_space: bool) -> PreTrainedTokenizerFast:
    """Like GPT-2 with `leading_space`; without, spaces are tokens of their own."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(" ", "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=leading_space)
    tokenizer.pre_tokenizer = level if leading_space else pre_tokenizers.Sequence([split, level])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<e>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<e>", pad_token="<e>")


def sentencepiece(*, lone_digits: bool) -> PreTrainedTokenizerFast:
    """Like Llama 2: a space becomes U+2581; with `lone_digits` it is a token of its own before a digit."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    parts: list[Any] = [pre_tokenizers.Metaspace(prepend_scheme="first")]
    if lone_digits:
        parts.append(pre_tokenizers.Digits(individual_digits=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", "<e>"], show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<e>", pad_token="<e>")


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "byte-level": lambda: byte_level(leading_space=True),
    "byte-level, lone spaces": lambda: byte_level(leading_space=False),
    "sentencepiece": lambda: sentencepiece(lone_digits=False),
    "sentencepiece, lone digits": lambda: sentencepiece(lone_digits=True),
    "reference": lambda: AutoTokenizer.from_pretrained(MODEL_DIR),
}
