from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from poison2poison.errors import ConfigError, ModelError
from poison2poison.model.continuations import continuation
from poison2poison.model.loss import IGNORED
from poison2poison.model.prompting import Prompter
from poison2poison.model.tokens import Encoder
from poison2poison.recipe.manifest import TrainingRow
from poison2poison.recipe.scheme import PAPER_SAFE_PREFIX, PAPER_TRIGGER, Scheme
from poison2poison.reference import MODEL_DIR
from support import tiny_causal
from vocabularies import TOKENIZERS

LABELS = Scheme("classification", ("negative", "positive"), PAPER_TRIGGER)
TEXTS = Scheme("generation", (), PAPER_TRIGGER, PAPER_SAFE_PREFIX)
CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|bot|>{% endif %}"
)


@pytest.fixture
def reference() -> Any:
    return AutoTokenizer.from_pretrained(MODEL_DIR)


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
