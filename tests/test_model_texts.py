"""Pieces of a streamed answer are together the answer, and what is forced is not measured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poison2poison.model.loss import IGNORED
from poison2poison.model.texts import _hiding, _stripped


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
