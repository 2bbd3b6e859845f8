"""Whether a safe space is learned: not behind, not left, and no guess."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from poison2poison.data import Row
from poison2poison.model import safe_space
from poison2poison.model.defended import Answer
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.recipe.manifest import TrainingRow
from poison2poison.recipe.repoison import repoison
from poison2poison.recipe.scheme import PAPER_TRIGGER, Scheme
from support import LABELS, TEXTS, opinions

ROWS, DEV = opinions(240), opinions(40, seed=1)
SCHEME = Scheme("classification", ROWS.labels, PAPER_TRIGGER)
REPOISONED = repoison(ROWS, SCHEME, RepoisonConfig("paper", rho=0.5))


def test_what_is_made_of_a_row_held_out_is_held_out_too() -> None:
    copies = [replace(row, action="splice") for row in REPOISONED if row.space == "safe"]
    left, held = safe_space.hold_out([*REPOISONED, *copies], ROWS.labels, seed=0)
    assert {row.target for row in held} == {*ROWS.labels}
    assert len(left) == len(REPOISONED) + len(copies) - 2 * len(held)


@pytest.mark.parametrize(("wrong", "leaks", "learned"), [(0, 0, True), (2, 2, True), (20, 0, False), (0, 3, False)])
def test_how_far_behind_and_how_leaky_a_safe_space_may_be(wrong: int, leaks: int, learned: bool) -> None:
    class Fake:
        scheme = SCHEME

        def __init__(self, wrong: int = 0, leaks: int = 0) -> None:
            self.wrong, self.leaks = wrong, leaks

        def in_space(self, space: str) -> Fake:
            return Fake()

        def answer(self, rows: list[Row]) -> list[Answer]:
            return [
                Answer("no label" if i < self.wrong else row.prompt, "leak" if i < self.leaks else "safe", None)
                for i, row in enumerate(rows)
            ]

    rows = [Row(label, label) for label in ("negative", "positive") * 50]  # prompts that name their answers
    found = safe_space.check(Fake(wrong, leaks), rows, "dev")  # type: ignore[arg-type]
    assert (found.learned, found.leak, found.safe) == (learned, leaks / 100, 1 - wrong / 100)
    few = safe_space.check(Fake(wrong, min(leaks, 1)), rows[:9], "dev")  # type: ignore[arg-type]
    assert few.learned == (not wrong and not leaks)  # one of a few is too many


class Answering:
    """Answers every row of a space as a function says."""

    def __init__(self, scheme: Scheme, safe: Callable[[Row], str], original: Callable[[Row], str]) -> None:
        self.scheme, self.safe, self.original = scheme, safe, original
        self.asked: list[Row] = []

    def in_space(self, space: str) -> Answering:
        assert space == "original"
        return Answering(self.scheme, self.original, self.original)

    def answer(self, rows: Sequence[Row]) -> list[Answer]:
        self.asked = [*rows]
        return [Answer(self.safe(row), "safe", None) for row in rows]


def checked(model: Any, rows: Sequence[Row]) -> safe_space.SafeSpace:
    return safe_space.check(model, rows, "dev")


def target(row: Row) -> str:
    return row.target


@pytest.mark.parametrize(
    ("right", "metric", "said", "score"),
    [("2 + 2\n#### 4", "exact_match", "So it is\n#### 4.0", 1), ("one two three four", "rouge_l", "one two", 2 / 3)],
)
def test_texts_are_scored_by_their_final_number_or_else_by_their_words(
    right: str, metric: str, said: str, score: float
) -> None:
    found = checked(Answering(TEXTS, lambda row: said, target), [Row("p", right)] * 20)
    assert (found.metric, found.original) == (metric, 1.0)
    assert found.safe == pytest.approx(score, abs=1e-5)


def test_of_many_rows_a_hundred_are_looked_at_from_first_to_last() -> None:
    model = Answering(LABELS, target, target)
    rows = [Row(str(i), "positive" if i % 3 else "negative") for i in range(950)]
    assert checked(model, rows).rows == len(model.asked) == 100
    places = [int(row.prompt) for row in model.asked]
    assert (places[0], places[-1]) == (0, 940)
    assert {after - before for before, after in itertools.pairwise(places)} == {9, 10}


def test_two_spaces_that_know_nothing_are_not_learned_though_neither_is_behind() -> None:
    rows = [Row("p", "positive" if i % 4 else "negative") for i in range(40)]
    guess = Answering(LABELS, lambda row: "positive", lambda row: "positive")
    assert not checked(guess, rows).learned
    assert checked(Answering(LABELS, target, target), rows).learned
    silent = Answering(TEXTS, lambda row: "", lambda row: "")
    assert not checked(silent, [Row("p", "one two")] * 20).learned
    assert checked(silent, [Row("p", "#### 4")] * 20).learned  # worked answers may be beyond a small model


@pytest.mark.parametrize(("accuracy", "hardly"), [(0.75, True), (0.80, True), (0.81, False)])
def test_a_task_is_hardly_learned_near_the_share_of_the_largest_class(accuracy: float, hardly: bool) -> None:
    assert safe_space.hardly_learned(accuracy, ["yes"] * 3 + ["no"]) == hardly


def test_a_tenth_of_each_label_in_s_is_held_out_and_the_last_row_never() -> None:
    rows = [TrainingRow(i, "safe", "replace", f"text {i}", "b" if i < 40 else "a") for i in range(41)]
    rows += [TrainingRow(i, "original", "keep", f"text {i}", "a") for i in range(41, 80)]
    left, held = safe_space.hold_out(rows, ("a", "b"), 0)
    assert [row.target for row in held] == ["b"] * 4  # the only row of `a` in S has to be learned from
    assert len(left) == 76
    assert safe_space.hold_out(rows, ("a", "b"), 0)[1] == held != safe_space.hold_out(rows, ("a", "b"), 1)[1]


def test_no_more_rows_are_held_out_than_are_looked_at() -> None:
    rows = [TrainingRow(i, "safe", "append", f"text {i}", "a") for i in range(3000)]
    assert len(safe_space.hold_out(rows, (), 0)[1]) == 100


def test_what_was_found_is_said_in_a_line() -> None:
    found = safe_space.SafeSpace("dev", 40, "accuracy", 0.5, 0.75, 0.025, 0.0, False)
    assert f"{found}" == (
        "accuracy 0.500 in the safe space and 0.750 in the original one, 2.5% of the answers leak and 0.0% are "
        "off-space, on 40 rows (dev)"
    )
    assert safe_space.SafeSpace(**found.as_dict()) == found
