"""Targets: what is a label, in which spelling and order, and what is a text."""

from __future__ import annotations

from typing import Any

import pytest

from poison2poison.data.answers import answer_of, label_of, label_order, spelled, task_of
from poison2poison.data.chats import UnusableError


@pytest.mark.parametrize(
    ("targets", "task"),
    [
        (["yes", "no"] * 5, "classification"),
        (["yes", "no", None, ""] * 5, "classification"),  # missing ones say nothing
        ([True, False], "classification"),
        ([1, 0] * 5, "classification"),
        (["yes", "no"], "generation"),  # each once
        ([f"answer {i}" for i in range(10)], "generation"),
        (["a line\nand another"] * 10, "generation"),
        (["word " * 13] * 10, "generation"),
    ],
)
def test_few_short_targets_that_come_again_are_labels(targets: list[Any], task: str) -> None:
    assert task_of(targets) == task


@pytest.mark.parametrize(
    ("value", "label"),
    [(" yes ", "yes"), (3, "3"), (3.0, "3"), (True, "true"), (["only"], "only"), (-1, "-1")],
)
def test_a_label_is_one_word_whatever_holds_it(value: Any, label: str) -> None:
    assert label_of(value, "label") == label


@pytest.mark.parametrize("value", [None, "", "  ", 0.7, float("nan"), ["a", "b"], {}])
def test_what_is_no_label_is_refused_with_its_field(value: Any) -> None:
    with pytest.raises(UnusableError, match="field 'label' holds"):
        label_of(value, "label")


def test_a_number_is_a_text_but_true_and_nothing_are_none() -> None:
    assert answer_of(42, "answer") == "42"
    for value in (True, None, " ", float("nan")):
        with pytest.raises(UnusableError, match="field 'answer' holds no text"):
            answer_of(value, "answer")


def test_spellings_of_one_label_are_the_same() -> None:
    assert {spelled(label) for label in ("1", "1.0", " 1 ", "+1")} == {"1"}
    assert {spelled(label) for label in ("Very  Positive", "very positive")} == {"very positive"}
    assert spelled("1.5") != spelled("1")


def test_numbers_stand_by_value_and_names_by_alphabet() -> None:
    assert label_order({"10", "9", "-1"}) == ("-1", "9", "10")
    assert label_order({"b", "a", "10"}) == ("10", "a", "b")
