from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from poison2poison.errors import ConfigError, ModelError
from poison2poison.model.continuations import choose_label_words, continuation, first_token
from poison2poison.model.loss import IGNORED
from poison2poison.model.prompting import Prompter
from poison2poison.model.tokens import Encoder
from poison2poison.recipe.manifest import TrainingRow
from poison2poison.recipe.scheme import PAPER_SAFE_PREFIX, PAPER_TRIGGER, Scheme
from poison2poison.reference import MODEL_DIR
from support import tiny_causal

TEXT = ["The answer is A or B, and 0 1 2 3 4 5 6 7 8 9 are numbers.", "Yes: no, Answer: Output: words here"] * 50
TEXT += ["The query currently entered is: Yes or no Answer: Safe answer: words here"]
TEXT += [" ".join("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")] * 5
LABELS = Scheme("classification", ("negative", "positive"), PAPER_TRIGGER)
TEXTS = Scheme("generation", (), PAPER_TRIGGER, PAPER_SAFE_PREFIX)
CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|bot|>{% endif %}"
)


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


@pytest.fixture
def reference() -> Any:
    return AutoTokenizer.from_pretrained(MODEL_DIR)


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


def test_texts_need_a_token_that_ends_them() -> None:
    tokenizer = TOKENIZERS["sentencepiece"]()
    tokenizer.eos_token = None
    Prompter(tokenizer, LABELS, "causal", max_length=200, max_target=1)
    with pytest.raises(ModelError, match="no token that ends a text"):
        Prompter(tokenizer, TEXTS, "causal", max_length=200, max_target=20)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_prompt_and_target_read_back_as_the_text_they_were(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    prompter = Prompter(tokenizer, TEXTS, "causal", max_length=200, max_target=60)
    example, cut = prompter.example(TrainingRow(0, "safe", "keep", "Yes or no", "words here"))
    text = tokenizer.decode(example["input_ids"], skip_special_tokens=True)
    assert not cut
    # A tokenizer may know no line break, so that it is lost.
    assert "".join(text.split()) == "Thequerycurrentlyenteredis:YesornoAnswer:Safeanswer:wordshere"


def test_loss_is_on_the_target_alone(reference: Any) -> None:
    prompter = Prompter(reference, TEXTS, "causal", max_length=200, max_target=40)
    example, _ = prompter.example(TrainingRow(0, "original", "keep", "Two and two?", "four"))
    target = [token for token in example["labels"] if token != IGNORED]
    assert reference.decode(target) == " four<|end|>"
    assert example["input_ids"][-len(target) :] == target
    assert reference.decode(example["input_ids"][: -len(target)]) == "Two and two?\nOutput:"


def test_a_label_is_one_token(reference: Any) -> None:
    prompter = Prompter(reference, LABELS, "causal", max_length=200, max_target=40)
    ids = {
        space: prompter.example(TrainingRow(0, space, "keep", "fine", "positive"))[0]["labels"][-1]
        for space in ("safe", "original")
    }
    assert ids == {"safe": prompter.label_ids[3], "original": prompter.label_ids[1]}


@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_a_long_body_is_cut_and_the_trigger_stays(reference: Any, kind: Any) -> None:
    prompter = Prompter(reference, LABELS, kind, max_length=50, max_target=40)
    ids, cut = prompter.prompt("film " * 500, "safe")
    text = reference.decode(ids)
    assert cut
    assert 45 <= len(ids) <= 50
    assert text.startswith(PAPER_TRIGGER.prefix)
    assert text.endswith("Answer:") or kind == "encoder"
    assert not prompter.prompt("film " * 5, "safe")[1]


def test_training_and_inference_cut_alike(reference: Any) -> None:
    prompter = Prompter(reference, TEXTS, "causal", max_length=60, max_target=20)
    example, cut = prompter.example(TrainingRow(0, "safe", "keep", "film " * 500, "a word"))
    prompt, _ = prompter.prompt("film " * 500, "safe")
    assert cut
    assert example["input_ids"][: len(prompt)] == prompt


def test_no_room_for_a_body_is_an_error(reference: Any) -> None:
    with pytest.raises(ConfigError, match="max_length"):
        Prompter(reference, TEXTS, "causal", max_length=40, max_target=30)


def test_the_chat_template_is_used(reference: Any) -> None:
    reference.chat_template = CHAT
    prompter = Prompter(reference, TEXTS, "causal", max_length=200, max_target=40)
    example, _ = prompter.example(TrainingRow(0, "safe", "keep", "Two?", "four"))
    text = reference.decode(example["input_ids"])
    assert text == "<|user|>The query currently entered is: Two?\nAnswer:<|bot|>Safe answer: four<|end|>"
    assert continuation(Encoder(reference), "four") == reference("four")["input_ids"]


def test_padding_on_the_left_changes_no_logits(tmp_path: Path, reference: Any) -> None:
    model: Any = LlamaForCausalLM.from_pretrained(tiny_causal(tmp_path))
    model.eval()
    prompter = Prompter(reference, LABELS, "causal", max_length=200, max_target=1)
    prompts = [prompter.prompt(body, "safe")[0] for body in ("short", "rather longer text")]
    with torch.inference_mode():
        together = model(**prompter.collate([{"input_ids": prompt} for prompt in prompts])).logits[:, -2:]
        alone = [model(input_ids=torch.tensor([prompt])).logits[0, -2:] for prompt in prompts]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-5, rtol=1e-4)


def test_a_target_without_room_behind_the_safe_prefix_is_refused() -> None:
    reference = AutoTokenizer.from_pretrained(MODEL_DIR)
    prefix = Prompter(reference, TEXTS, "causal", max_length=200, max_target=40).safe_prefix_ids
    assert Prompter(reference, TEXTS, "causal", max_length=200, max_target=len(prefix) + 2).max_target
    with pytest.raises(ConfigError, match=f"max_target: .* at least {len(prefix) + 2} are needed"):
        Prompter(reference, TEXTS, "causal", max_length=200, max_target=len(prefix) + 1)
