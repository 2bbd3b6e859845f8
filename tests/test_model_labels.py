"""Labels: the best of the space that is served, what the model had said freely, and how far the spaces lie apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from poison2poison.errors import ConfigError
from poison2poison.model import backbone
from poison2poison.model.defended import DefendedModel
from poison2poison.model.labels import Projected
from poison2poison.recipe.scheme import PAPER_SAFE_PREFIX, PAPER_TRIGGER, Scheme
from support import LABELS, PROMPTS, TEXTS, TOKENIZER, served, tiny_causal, tiny_encoder

UNDEFENDED = Scheme("classification", LABELS.labels)
PREFIXED = Scheme("classification", LABELS.labels, PAPER_TRIGGER, PAPER_SAFE_PREFIX)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return backbone.load_model(tiny_encoder(tmp_path_factory.mktemp("encoder")), "encoder", 4, frozen=False)


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return backbone.load_model(tiny_causal(tmp_path_factory.mktemp("causal")), "causal", 0, frozen=True)


def scoring(encoder: Any, *logits: float) -> DefendedModel:
    """An encoder that gives every text these logits: of the original classes, then of their safe ones."""
    torch.nn.init.zeros_(encoder.classifier.weight)
    with torch.no_grad():
        encoder.classifier.bias[:] = torch.tensor(logits)
    return served(encoder, LABELS, "encoder")


def saying(causal: Any, scheme: Scheme, *, begun: Sequence[int] = (), **scores: float) -> DefendedModel:
    """A causal LM that scores the words of some classes, or other words, so behind any text.

    Behind the prompt it would begin with the tokens `begun`, where there are any.
    """
    model = served(causal, scheme)
    logits = torch.zeros(model.model.config.vocab_size)
    words = dict(zip(model.prompter.label_words, model.prompter.label_ids, strict=True))
    for word, score in scores.items():
        name = word.removeprefix("of_")
        logits[words[name] if name in words else model.prompter.tokenizer(name)["input_ids"][0]] = score

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        out = logits.repeat(*hidden.shape[:-1], 1)  # (batch, positions, vocabulary)
        for at, token in enumerate(begun):
            out[:, at, token] = 99
        return out

    causal.lm_head.forward = forward
    return model


def test_the_best_safe_label_is_answered_and_a_better_original_one_is_a_leak(encoder: Any) -> None:
    [leak] = scoring(encoder, 0, 9, 2, 1).classify(PROMPTS[:1])
    assert (leak.text, leak.where, leak.unconstrained) == ("negative", "leak", "positive")
    [safe] = scoring(encoder, 0, 1, 2, 9).classify(PROMPTS[:1])
    assert (safe.text, safe.where, safe.unconstrained) == ("positive", "safe", "positive")


def test_in_the_original_space_the_best_original_label_is_answered(encoder: Any) -> None:
    [answer] = scoring(encoder, 3, 2, 0, 9).in_space("original").classify(PROMPTS[:1])
    assert (answer.text, answer.unconstrained) == ("negative", "positive")


def test_the_spaces_lie_as_far_apart_as_their_answers_do(encoder: Any) -> None:
    model = scoring(encoder, 0, math.log(3), math.log(4), 0)
    p, q = (1 / 4, 3 / 4), (4 / 5, 1 / 5)  # of the original space, and of the safe one
    expected = sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2
    assert model.disagreement(PROMPTS) == pytest.approx([expected] * 3, abs=1e-5)
    assert scoring(encoder, 1, 2, 1, 2).disagreement(PROMPTS[:1]) == [0.0]


def test_the_alarm_is_raised_over_its_threshold_alone(encoder: Any) -> None:
    model = scoring(encoder, 0, math.log(3), math.log(4), 0)
    for threshold, raised in ((0.54, True), (0.56, False)):
        model.alarm_threshold = threshold
        [answer] = model.classify(PROMPTS[:1], alarm=True)
        assert answer.alarm == raised
        assert answer.disagreement == pytest.approx(0.55, abs=1e-5)
    assert model.classify(PROMPTS[:1])[0].alarm is None


def test_what_has_no_second_space_has_no_disagreement_and_no_alarm(encoder: Any) -> None:
    model = scoring(encoder, 0, 1, 2, 3)
    with pytest.raises(ConfigError, match="alarm: this model has none"):
        model.classify(PROMPTS, alarm=True)
    with pytest.raises(ConfigError, match="one space only"):
        served(encoder, UNDEFENDED, "encoder").disagreement(PROMPTS)
    with pytest.raises(ConfigError, match="use generate"):
        served(encoder, TEXTS).classify(PROMPTS)


def test_answers_stand_in_the_order_of_their_texts_whatever_the_batches(encoder: Any) -> None:
    torch.manual_seed(0)
    torch.nn.init.normal_(encoder.classifier.weight)
    model = served(encoder, LABELS, "encoder")
    texts = [f"{'good ' * (i % 7)}{'bad ' * (i % 3)}" for i in range(20)]
    alone = torch.cat([model.scored([text], "safe").logits for text in texts])
    model.batch_size = 3
    torch.testing.assert_close(model.scored(texts, "safe").logits, alone, atol=1e-3, rtol=1e-3)
    assert alone.std(0).max() > 1e-2


def test_a_causal_lm_answers_by_the_words_of_its_classes(causal: Any) -> None:
    [answer] = saying(causal, LABELS, of_0=1, of_1=5, of_2=3, of_3=2).classify(PROMPTS[:1])
    assert (answer.text, answer.where, answer.unconstrained) == ("negative", "leak", "positive")
    [answer] = saying(causal, LABELS, of_2=3, of_3=5).classify(PROMPTS[:1])
    assert (answer.text, answer.where) == ("positive", "safe")


def test_a_word_that_stands_for_no_class_is_in_neither_space(causal: Any) -> None:
    [answer] = saying(causal, LABELS, good=9, of_3=5).classify(PROMPTS[:1])
    assert (answer.text, answer.where, answer.unconstrained) == ("positive", "off-space", None)


def test_a_model_that_would_not_begin_with_the_prefix_leaks_what_it_would_have_said(causal: Any) -> None:
    model = saying(causal, PREFIXED, of_0=5, of_1=1)
    assert model.scored(PROMPTS[:1], "safe").free == [Projected("negative", "leak")]
    assert model.classify(PROMPTS[:1])[0].text == "negative"
    good = TOKENIZER("good")["input_ids"]  # what it would have begun with, and not what it says behind the prefix
    assert saying(causal, PREFIXED, begun=good, of_0=5).scored(PROMPTS[:1], "safe").free == [
        Projected(None, "off-space")
    ]


def test_a_model_that_begins_with_the_prefix_by_itself_answers_in_the_safe_space(causal: Any) -> None:
    prefix = served(causal, PREFIXED).prompter.safe_prefix_ids
    [answer] = saying(causal, PREFIXED, begun=prefix, of_1=5).classify(PROMPTS[:1])
    assert (answer.text, answer.where, answer.unconstrained) == ("positive", "safe", "positive")


def test_an_undefended_model_has_one_space_and_no_leaks(causal: Any) -> None:
    [answer] = saying(causal, UNDEFENDED, of_0=1, of_1=5).classify(PROMPTS[:1])
    assert (answer.text, answer.where, answer.unconstrained) == ("positive", "safe", "positive")
