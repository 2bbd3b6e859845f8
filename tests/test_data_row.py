"""A row says what a model is asked and what it shall answer, and is known by that alone."""

from __future__ import annotations

from dataclasses import fields

from poison2poison.data import (
    Row,
    rows_of,
)


def test_a_row_has_no_room_for_the_truth() -> None:
    assert [field.name for field in fields(Row)] == ["prompt", "target", "before", "after"]


def test_the_hash_is_of_the_content_in_order() -> None:
    one, other = ({"text": "x", "label": "a"}, {"text": "y", "label": "a"})
    hashes = {rows_of(records, "memory").sha256 for records in ([one, other], [other, one], [one], [one, other])}
    assert len(hashes) == 3
