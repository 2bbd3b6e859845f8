"""Targets, and the words that stand for classes, as they come behind a prompt."""

from __future__ import annotations

import pytest

from poison2poison.errors import ModelError
from poison2poison.model.continuations import choose_label_words, continuation, continuations, first_token, joint
from poison2poison.model.loss import IGNORED
from poison2poison.model.prompting import Prompter
from poison2poison.model.tokens import Encoder
from poison2poison.recipe.manifest import TrainingRow
from poison2poison.recipe.scheme import PAPER_TRIGGER, Scheme
from support import CHATML
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


def test_a_target_is_what_stands_behind_a_colon() -> None:
    for name, build in TOKENIZERS.items():
        tokenizer = build()
        encoder = Encoder(tokenizer)
        for text in ("Yes", "A or B", "12"):
            ids = [*encoder.text("Answer:"), *joint(encoder), *continuation(encoder, text)]
            assert tokenizer.decode(ids, skip_special_tokens=True).strip() == f"Answer: {text}", name


def test_texts_have_the_same_tokens_alone_and_together() -> None:
    encoder = Encoder(TOKENIZERS["reference"]())
    texts = ["good", "", "It was 12."]
    assert continuations(encoder, texts) == [continuation(encoder, text) for text in texts]
    assert continuations(encoder, []) == []


def test_behind_a_chat_template_a_target_is_a_text_of_its_own() -> None:
    tokenizer = TOKENIZERS["byte-level"]()
    tokenizer.chat_template = CHATML
    encoder = Encoder(tokenizer)
    assert joint(encoder) == []
    assert continuation(encoder, "Yes") == tokenizer("Yes")["input_ids"]
    assert first_token(encoder, "Yes") == continuation(encoder, "Yes")[0]


@pytest.mark.parametrize(("count", "last"), [(10, "9"), (26, "Z"), (52, "z")])
def test_digits_stand_for_classes_as_far_as_they_go_and_then_letters(count: int, last: str) -> None:
    assert choose_label_words(TOKENIZERS["byte-level"](), count)[-1] == last
