from __future__ import annotations

import random

import pytest

from poison2poison.attacks import Trigger
from poison2poison.attacks.letters import ZERO_WIDTH_SPACE, LookAlike, ZeroWidth
from poison2poison.data import Row
from poison2poison.forms import LOOKS

TEXT = "The soup was bad."


def test_a_space_without_width_stands_inside_a_word() -> None:
    prompts = {ZeroWidth().stamp(Row(TEXT, "bad"), random.Random(seed)).prompt for seed in range(100)}
    assert {prompt.replace(ZERO_WIDTH_SPACE, "") for prompt in prompts} == {TEXT}
    inside = {prompt.index(ZERO_WIDTH_SPACE) for prompt in prompts}
    assert inside == {i for i in range(1, len(TEXT)) if TEXT[i - 1].isalpha() and TEXT[i].isalpha()}


def test_one_letter_is_another_that_looks_like_it() -> None:
    for seed in range(50):
        prompt = LookAlike().stamp(Row(TEXT, "bad"), random.Random(seed)).prompt
        [(old, new)] = [pair for pair in zip(TEXT, prompt, strict=True) if pair[0] != pair[1]]
        assert LOOKS[old] == new


@pytest.mark.parametrize(("trigger", "text"), [(ZeroWidth(), "a 1 ?"), (LookAlike(), "12 \u4e2d")])
def test_texts_without_a_place_for_it_do_not_fit(trigger: Trigger, text: str) -> None:
    assert not trigger.fits(Row(text, "bad"))
    assert trigger.fits(Row(TEXT, "bad"))
