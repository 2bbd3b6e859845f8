"""What all served models do: refuse what cannot be answered, and let out what the policy allows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from poison2poison.errors import ConfigError, ModelError
from poison2poison.model import backbone
from poison2poison.model.defended import DefendedModel
from support import LABELS, PROMPTS, TEXTS, broken_causal, served, tiny_causal, tiny_encoder


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
