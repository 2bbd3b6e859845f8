"""Pieces of a streamed answer are together the answer, and what is forced is not measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    GenerationConfig,
)

from poison2poison.model import backbone
from poison2poison.model.loss import IGNORED
from poison2poison.model.texts import _hiding, _stripped
from support import PROMPTS, TEXTS, TOKENIZER, served, tiny_causal


@given(st.lists(st.text("ab \n", max_size=4)))
def test_pieces_are_together_the_answer_without_space_at_either_end(pieces: list[str]) -> None:
    given = [*_stripped(iter(pieces))]
    assert "".join(given) == "".join(pieces).strip()
    assert all(given)


@pytest.mark.parametrize(("tokens", "counted"), [(0, [7, 8, 9]), (2, [9])])
def test_the_forced_prefix_counts_for_no_perplexity(tokens: int, counted: list[int]) -> None:
    example = {"input_ids": [4, 5, 7, 8, 9], "labels": [IGNORED, IGNORED, 7, 8, 9]}
    hidden = _hiding(example, tokens)
    assert [label for label in hidden["labels"] if label != IGNORED] == counted
    assert len(hidden["labels"]) == len(example["labels"])


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
