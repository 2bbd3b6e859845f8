"""S: which rows move to the safe space."""

from __future__ import annotations

from collections import Counter

import pytest

from poison2poison.data import Rows, rows_of
from poison2poison.errors import DataError
from poison2poison.recipe.subset import select_subset

ROWS = rows_of([{"text": f"text {i}", "label": "rare" if i % 10 == 0 else "common"} for i in range(200)], "memory")
TEXTS = rows_of([{"prompt": f"text {i}", "completion": f"{i}"} for i in range(50)], "memory")


def subset(rows: Rows, rho: float, seed: int = 0) -> list[int]:
    return select_subset(rows.rows, rho, seed, stratified=rows.task == "classification")


@pytest.mark.parametrize(("rho", "rare", "common"), [(0.2, 4, 36), (0.5, 10, 90), (0.001, 1, 1), (0.999, 19, 179)])
def test_s_has_the_same_share_of_every_label_and_leaves_some(rho: float, rare: int, common: int) -> None:
    assert Counter(ROWS[i].target for i in subset(ROWS, rho)) == {"rare": rare, "common": common}


def test_s_is_drawn_by_the_seed() -> None:
    assert subset(ROWS, 0.2) == subset(ROWS, 0.2)
    assert subset(ROWS, 0.2) != subset(ROWS, 0.2, seed=1)
    assert len(subset(TEXTS, 0.2)) == 10


def test_a_label_with_one_row_is_refused() -> None:
    with pytest.raises(DataError, match="'b' has one row only"):
        subset(rows_of([{"text": "x", "label": label} for label in "aaab"], "memory"), 0.5)
    with pytest.raises(DataError, match="the data has one row only"):
        subset(TEXTS.with_rows(TEXTS.rows[:1]), 0.5)
