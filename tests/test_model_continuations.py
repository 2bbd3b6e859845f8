"""Targets, and the words that stand for classes, as they come behind a prompt."""

from __future__ import annotations

import pytest

from poison2poison.errors import ModelError
from poison2poison.model.continuations import choose_label_words, first_token
from poison2poison.model.loss import IGNORED
from poison2poison.model.prompting import Prompter
from poison2poison.model.tokens import Encoder
from poison2poison.recipe.manifest import TrainingRow
from poison2poison.recipe.scheme import PAPER_TRIGGER, Scheme
from vocabularies import TOKENIZERS

LABELS = Scheme("classification", ("negative", "positive"), PAPER_TRIGGER)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("count", [2, 4, 12, 30])
def test_label_words_begin_with_different_tokens(name: str, count: int) -> None:
    tokenizer = TOKENIZERS[name]()
    words = choose_label_words(tokenizer, count)
    assert len({first_token(Encoder(tokenizer), word) for word in words}) == count == len(set(words))


def test_lone_digits_are_passed_over_for_letters() -> None:
    assert choose_label_words(TOKENIZERS["sentencepiece"](), 4) == ("0", "1", "2", "3")
    assert choose_label_words(TOKENIZERS["sentencepiece, lone digits"](), 4) == ("A", "B", "C", "D")


def test_a_lone_space_belongs_to_the_prompt() -> None:
    tokenizer = TOKENIZERS["byte-level, lone spaces"]()
    assert choose_label_words(tokenizer, 4) == ("0", "1", "2", "3")
    example, _ = Prompter(tokenizer, LABELS, "causal", max_length=200, max_target=1).example(
        TrainingRow(0, "original", "keep", "Yes", "positive")
    )
    assert tokenizer.decode(example["input_ids"]) == "Yes\nOutput: 1"
    assert [token for token in example["labels"] if token != IGNORED] == tokenizer("1")["input_ids"]


def test_too_many_labels_for_the_tokenizer_are_refused() -> None:
    with pytest.raises(ModelError, match="4000 label words"):
        choose_label_words(TOKENIZERS["sentencepiece"](), 4000)
