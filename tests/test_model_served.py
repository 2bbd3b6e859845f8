"""What all served models do: refuse what cannot be answered, and let out what the policy allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from poison2poison.errors import ConfigError, ModelError
from poison2poison.model import backbone
from poison2poison.model.defended import DefendedModel
from poison2poison.model.prompting import Prompter
from poison2poison.model.served import Answer, refuse_lone
from poison2poison.recipe.scheme import PAPER_TRIGGER, Scheme
from support import LABELS, PROMPTS, TEXTS, TOKENIZER, broken_causal, served, tiny_causal, tiny_encoder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return backbone.load_model(tiny_causal(tmp_path_factory.mktemp("tiny")), "causal", 0, frozen=True)


def prompter_of(scheme: Scheme) -> Prompter:
    return Prompter(TOKENIZER, scheme, "causal", max_length=128, max_target=30)


@pytest.fixture
def broken(tmp_path: Path) -> str:
    return broken_causal(tmp_path / "broken")


@pytest.mark.parametrize(
    "ask",
    [
        lambda labels, texts: labels.classify(PROMPTS),
        lambda labels, texts: labels.disagreement(PROMPTS),
        lambda labels, texts: texts.generate(PROMPTS),
        lambda labels, texts: texts.in_space("original").generate(PROMPTS),
        lambda labels, texts: texts.in_space("original").generate(PROMPTS, do_sample=True, num_beams=2),
        lambda labels, texts: list(texts.stream(PROMPTS[0])),
        lambda labels, texts: texts.perplexity(PROMPTS, PROMPTS),
    ],
    ids=["classify", "disagreement", "generate", "without a prefix", "beams", "stream", "perplexity"],
)
def test_outputs_that_are_not_finite_are_not_measured(
    ask: Callable[[DefendedModel, DefendedModel], Any], broken: str
) -> None:
    model = backbone.load_model(broken, "causal", 0, frozen=True)
    with pytest.raises(ModelError, match="broken: the model's outputs are not finite"):
        ask(served(model, LABELS), served(model, TEXTS))


def test_an_encoder_that_is_not_finite_is_not_measured(tmp_path: Path) -> None:
    model = backbone.load_model(tiny_encoder(tmp_path / "tiny"), "encoder", 4, frozen=False)
    torch.nn.init.constant_(model.classifier.bias[1:2], torch.inf)
    with pytest.raises(ModelError, match="outputs are not finite"):
        served(model, LABELS, "encoder").classify(PROMPTS)


def test_scores_of_minus_infinity_beyond_the_vocabulary_are_fine(tmp_path: Path) -> None:
    model = backbone.load_model(tiny_causal(tmp_path / "tiny"), "causal", 0, frozen=True)
    head = model.lm_head.forward
    model.lm_head.forward = lambda hidden: torch.cat(
        [head(hidden)[..., :-1], torch.full_like(head(hidden)[..., :1], -torch.inf)], -1
    )
    assert served(model, LABELS).classify(PROMPTS)
    assert served(model, TEXTS).generate(PROMPTS, max_new_tokens=4)


def test_a_lone_string_is_not_answered_letter_by_letter(tmp_path: Path) -> None:
    model = backbone.load_model(tiny_causal(tmp_path / "tiny"), "causal", 0, frozen=True)
    for ask in (
        lambda: served(model, LABELS).classify("good"),
        lambda: served(model, LABELS).disagreement("good"),
        lambda: served(model, TEXTS).generate("good"),
        lambda: served(model, TEXTS).answer("good"),
        lambda: served(model, TEXTS).perplexity("good", "good"),
    ):
        with pytest.raises(ConfigError, match="a list of texts is needed, not a string"):
            ask()


@pytest.mark.parametrize(
    ("policy", "leak"),
    [
        ("flag", Answer("good", "leak", "bad")),
        ("refuse", Answer(None, "leak", "bad")),
        ("pass", Answer("good", "safe", "bad")),
    ],
)
def test_a_policy_lets_leaks_out_or_does_not(policy: str, leak: Answer, model: Any) -> None:
    defended = DefendedModel(model, prompter_of(LABELS), policy)
    assert defended._let_out("good", "bad", "leak") == leak
    assert defended._let_out(None, None, "off-space").where == ("safe" if policy == "pass" else "off-space")
    assert defended._let_out("good", "good", "safe") == Answer("good", "safe", "good")


def test_there_is_no_other_policy(model: Any) -> None:
    with pytest.raises(ConfigError, match="policy: 'ask' is not one of flag, refuse, pass"):
        DefendedModel(model, prompter_of(LABELS), "ask")


def test_another_space_is_asked_without_changing_the_model(model: Any) -> None:
    defended = served(model, LABELS)
    assert defended.in_space("original").space == "original"
    assert defended.space == "safe"
    assert served(model, replace(LABELS, trigger=None)).space == "original"


def test_the_trigger_is_put_on_inputs_of_the_safe_space_alone(model: Any) -> None:
    defended = served(model, LABELS)
    for space, begins in (("safe", True), ("original", False)):
        [batch] = defended._dressed(PROMPTS[:1], space)  # type: ignore[arg-type]
        text = str(TOKENIZER.decode(batch.inputs["input_ids"][0]))
        assert text.startswith(PAPER_TRIGGER.prefix) == begins


def test_the_safe_prefix_stands_behind_each_prompt_and_is_seen(model: Any) -> None:
    defended = served(model, TEXTS)
    [batch] = defended._dressed(PROMPTS, "safe")
    prefix = defended._prefix("safe")
    ids, mask = defended._with_prefix(batch.inputs, prefix)
    length = batch.inputs["input_ids"].shape[1]
    assert prefix == defended.prompter.safe_prefix_ids != []
    assert ids.shape == mask.shape == (3, length + len(prefix))
    assert ids[:, length:].tolist() == [prefix] * 3
    assert mask[:, length:].all() and not mask[:, 0].all()
    assert defended._prefix("original") == []


def test_one_chat_is_no_list_of_chats() -> None:
    turn = {"role": "user", "content": "good"}
    with pytest.raises(ConfigError, match="a list of chats is needed, not one chat"):
        refuse_lone([turn])  # type: ignore[list-item]
    refuse_lone([[turn], "good"])


def test_no_gradients_are_kept_of_what_is_answered(model: Any) -> None:
    with served(model, LABELS)._computing():
        assert torch.is_inference_mode_enabled()
    assert not torch.is_inference_mode_enabled()
