"""S: which rows move to the safe space."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

import pytest

from poison2poison.data import Rows, rows_of
from poison2poison.errors import DataError
from poison2poison.recipe.subset import counts_of, select_subset

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


def drawn(leave_out: Collection[int] = (), dropped: Collection[int] = (), **options: Any) -> Counter[str]:
    found = select_subset(ROWS.rows, 0.5, 0, stratified=True, leave_out=leave_out, dropped=dropped, **options)
    assert not {*found} & {*leave_out}
    assert found == sorted({*found})
    return Counter(ROWS[i].target for i in found)


def test_rows_that_are_left_out_make_room_for_others_of_their_label() -> None:
    assert drawn(leave_out=range(0, 100, 10)) == {"rare": 10, "common": 90}
    assert drawn(leave_out=range(0, 150, 10)) == {"rare": 5, "common": 90}


def test_a_label_whose_rows_are_all_suspect_has_none_in_s_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert drawn(leave_out=range(0, 200, 10)) == {"common": 90}
    assert "all 20 rows of label 'rare' are suspect or have weak findings" in caplog.text


@pytest.mark.parametrize(("dropped", "rare"), [(17, 2), (18, 1), (19, 1)])
def test_where_suspects_are_dropped_one_of_the_others_stays_in_the_original_space(dropped: int, rare: int) -> None:
    gone = range(0, 10 * dropped, 10)
    assert drawn(leave_out=gone, dropped=gone) == {"rare": rare, "common": 90}


def test_suspects_count_as_the_label_that_the_probe_gives_them() -> None:
    likely = dict.fromkeys(range(0, 100, 10), "common")
    assert drawn(leave_out=likely, likely=likely) == {"rare": 5, "common": 95}
    assert counts_of(ROWS.rows, likely) == {"rare": 10, "common": 190}
