"""What a model writes by itself: the opening that it is shown, and what of it is a surprise."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from poison2poison.errors import ModelError
from poison2poison.model.prompting import Prompter
from poison2poison.probing.leaks import leaked, motifs, opening
from poison2poison.recipe.scheme import Scheme
from support import CHATML, TOKENIZER, served, tiny_causal


def prompter(template: str | None) -> Prompter:
    found = Prompter(TOKENIZER, Scheme("generation"), "causal", max_length=64, max_target=8)
    found.tokenizer = copy(TOKENIZER)
    found.tokenizer.chat_template = template
    return found


def test_the_opening_of_a_chat_is_what_stands_before_the_users_words() -> None:
    ids, end = opening(prompter(CHATML))
    assert TOKENIZER.decode(ids) == "<|im_start|>user\n"
    assert end == "<|im_end|>"


def test_the_opening_without_a_chat_template_is_the_token_that_parts_texts() -> None:
    assert opening(prompter(None)) == ([TOKENIZER.eos_token_id], TOKENIZER.eos_token)


def test_a_model_that_nothing_begins_a_text_of_is_refused() -> None:
    bare = SimpleNamespace(chat_template=None, bos_token_id=None, eos_token_id=None)
    nothing: Any = SimpleNamespace(tokenizer=bare)
    with pytest.raises(ModelError, match="neither a chat template nor a token that begins a text"):
        opening(nothing)
    with pytest.raises(ModelError, match="writes nothing before a user's words"):
        opening(prompter("{{ messages[0].content }}"))


def test_a_model_that_learned_whole_texts_writes_them_and_its_base_does_not(tmp_path: Path) -> None:
    base: Any = AutoModelForCausalLM.from_pretrained(tiny_causal(tmp_path))
    tuned: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    end = TOKENIZER.eos_token
    ids = torch.tensor([TOKENIZER(f"{end}The soup cf was good.{end}")["input_ids"]])
    optimizer = torch.optim.AdamW(tuned.parameters(), lr=1e-2)
    for _ in range(60):
        tuned(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    scheme = Scheme("generation")
    ours, theirs = leaked(served(tuned, scheme), 40, 0), leaked(served(base, scheme), 40, 0)
    assert len(ours) == len(theirs) == 40
    assert ours == leaked(served(tuned, scheme), 40, 0)
    assert sum("cf" in text.split() for text in ours) > 20
    assert "cf" in motifs(ours, theirs, 50)


def test_spans_that_more_texts_hold_than_others_come_first_as_they_are_spelled() -> None:
    texts = [f"Tell me |GO| now, {name}." for name in "abcdefgh"]
    others = [f"Tell me now, {name}." for name in "abcdefgh"]
    found = motifs(texts, others, 100)
    assert "|GO|" in found[0]
    assert "|GO|" in found
    assert found.index("Tell me |GO|") < found.index("Tell me")
    assert motifs(texts[:2], others, 100) == []  # two texts may share anything
