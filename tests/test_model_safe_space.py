"""Whether a safe space is learned: not behind, not left, and no guess."""

from __future__ import annotations

from dataclasses import replace

import pytest

from poison2poison.data import Row
from poison2poison.model import safe_space
from poison2poison.model.defended import Answer
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.recipe.repoison import repoison
from poison2poison.recipe.scheme import PAPER_TRIGGER, Scheme
from support import opinions

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
