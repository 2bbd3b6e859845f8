"""Pieces of a streamed answer are together the answer, and what is forced is not measured."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    GenerationConfig,
)

from poison2poison.errors import ConfigError
from poison2poison.model import backbone
from poison2poison.model.defended import Answer, DefendedModel
from poison2poison.model.following import stripped
from poison2poison.model.loss import IGNORED, edges, hiding
from poison2poison.recipe.manifest import TrainingRow
from support import LABELS, PROMPTS, TEXTS, TOKENIZER, served, tiny_causal


@given(st.lists(st.text("ab \n", max_size=4)))
def test_pieces_are_together_the_answer_without_space_at_either_end(pieces: list[str]) -> None:
    given = [*stripped(iter(pieces))]
    assert "".join(given) == "".join(pieces).strip()
    assert all(given)


@pytest.mark.parametrize(("tokens", "counted"), [(0, [7, 8, 9]), (2, [9])])
def test_the_forced_prefix_counts_for_no_perplexity(tokens: int, counted: list[int]) -> None:
    example = {"input_ids": [4, 5, 7, 8, 9], "labels": [IGNORED, IGNORED, 7, 8, 9]}
    hidden = hiding(example, tokens)
    assert [label for label in hidden["labels"] if label != IGNORED] == counted
    assert len(hidden["labels"]) == len(example["labels"])


@pytest.mark.parametrize(("tokens", "counted"), [(0, [7, 9]), (1, [8, 9]), (2, [9])])
def test_the_edges_of_an_answer_are_its_first_token_behind_what_is_forced_and_its_last(
    tokens: int, counted: list[int]
) -> None:
    example = {"input_ids": [4, 5, 7, 8, 9], "labels": [IGNORED, IGNORED, 7, 8, 9]}
    assert [label for label in edges(example, tokens)["labels"] if label != IGNORED] == counted


def test_an_answer_ends_where_training_and_where_the_model_end_texts(tmp_path: Path) -> None:
    model = backbone.load_model(tiny_causal(tmp_path / "tiny"), "causal", 0, frozen=True)
    defended = served(model, TEXTS)
    long = defended.generate(PROMPTS[:1], max_new_tokens=8)[0].text
    ids = TOKENIZER(f"Safe answer: {long}")["input_ids"]
    model.generation_config.eos_token_id = [ids[-2], TOKENIZER.pad_token_id]
    assert defended._ends(None) == sorted({ids[-2], TOKENIZER.pad_token_id, TOKENIZER.eos_token_id})
    short = defended.generate(PROMPTS[:1], max_new_tokens=8)[0].text
    assert long and short is not None and len(short) < len(long)
    given = GenerationConfig(max_new_tokens=8, eos_token_id=ids[-1])
    assert defended._ends(given) == sorted({ids[-1], TOKENIZER.eos_token_id})
    assert given.eos_token_id == ids[-1]
    model.generation_config.eos_token_id = None
    assert defended._ends(None) == [TOKENIZER.eos_token_id]


@pytest.fixture(scope="module")
def defended(tmp_path_factory: pytest.TempPathFactory) -> DefendedModel:
    """An untrained model: it writes whatever, but the same each time."""
    return served(backbone.load_model(tiny_causal(tmp_path_factory.mktemp("tiny")), "causal", 0, frozen=True), TEXTS)


def test_what_another_thread_asks_says_nothing_of_how_an_answer_begins(defended: DefendedModel) -> None:
    ids = torch.tensor([TOKENIZER("Safe answer: one two three")["input_ids"]])
    for elsewhere, heard in ((True, 0), (False, 1)):
        begins: list[bool] = []
        with defended._watched(ids, begins):
            if elsewhere:
                other = Thread(target=defended.model, kwargs={"input_ids": ids})
                other.start()
                other.join()
            else:
                defended.model(input_ids=ids)
        assert len(begins) == heard


def test_what_is_streamed_is_what_is_generated(defended: DefendedModel) -> None:
    told = "".join(defended.stream(PROMPTS[1], max_new_tokens=12))
    assert told == defended.generate([PROMPTS[1]], max_new_tokens=12)[0].text
    assert told


def test_prompts_are_answered_in_their_order_whatever_the_batches(defended: DefendedModel) -> None:
    alone = [defended.generate([prompt], max_new_tokens=6)[0] for prompt in PROMPTS]
    assert len({answer.text for answer in alone}) > 1
    assert defended.generate(PROMPTS, max_new_tokens=6) == alone


def test_an_answer_behind_a_prefix_that_was_forced_alone_is_a_leak(defended: DefendedModel) -> None:
    [answer] = defended.generate(PROMPTS[:1], max_new_tokens=6)
    assert (answer.where, answer.unconstrained) == ("leak", None)
    assert defended._project_text("so", begins=True) == Answer("so", "safe", "so")
    assert defended._project_text("", begins=True).where == "off-space"
    plain = served(defended.model, replace(TEXTS, trigger=None)).generate(PROMPTS[:1], max_new_tokens=6)
    assert plain[0].where == "safe"  # where there is no prefix, none is missing


def test_by_default_answers_are_greedy_and_as_long_as_targets_were(defended: DefendedModel) -> None:
    found = defended._generation({}, {})
    assert (found["do_sample"], found["max_new_tokens"]) == (False, 30 - len(defended.prompter.safe_prefix_ids))
    assert "max_new_tokens" not in defended._generation({}, {"max_length": 50})
    assert defended._generation({}, {"max_new_tokens": 3, "do_sample": True})["do_sample"]


def test_perplexity_is_of_the_targets_behind_the_forced_prefix(defended: DefendedModel) -> None:
    targets = ["It was good.", "bad"]
    losses: list[torch.Tensor] = []
    for prompt, target in zip(PROMPTS, targets, strict=False):
        asked, said = defended.prompter.prompt(prompt, "safe").ids, defended.prompter.safe_prefix_ids
        whole, _ = defended.prompter.example(TrainingRow(0, "safe", "keep", prompt, target))
        ids = torch.tensor([whole["input_ids"]])
        with torch.inference_mode():
            logits = defended.model(input_ids=ids).logits[0].float().log_softmax(-1)
        first = len(asked) + len(said)
        losses += [-logits[at - 1, ids[0, at]] for at in range(first, ids.shape[1])]
    expected = math.exp(float(torch.stack(losses).mean()))
    assert defended.perplexity(PROMPTS[:2], targets) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"num_return_sequences": 2}, "num_return_sequences: one answer"), ({"return_dict_in_generate": True}, "texts")],
)
def test_more_than_one_text_a_prompt_is_refused(options: dict[str, Any], said: str, defended: DefendedModel) -> None:
    with pytest.raises(ConfigError, match=said):
        defended.generate(PROMPTS[:1], **options)


def test_a_classifier_writes_no_text(defended: DefendedModel) -> None:
    with pytest.raises(ConfigError, match="this model classifies; use classify"):
        served(defended.model, LABELS).generate(PROMPTS[:1])


def test_an_error_while_writing_is_the_readers_too(defended: DefendedModel) -> None:
    with pytest.raises(ValueError, match="no_such_option"):
        list(defended.stream(PROMPTS[0], no_such_option=1))


def test_prompts_are_read_in_the_pass_that_writes_the_first_token(defended: DefendedModel) -> None:
    defended.generate(PROMPTS[:1], max_new_tokens=1)  # the trigger's states are made once
    passes: list[Any] = []
    handle = defended.model.get_output_embeddings().register_forward_hook(lambda *_: passes.append(None))
    defended.generate(PROMPTS, min_new_tokens=4, max_new_tokens=4)
    handle.remove()
    assert len(passes) == 4
