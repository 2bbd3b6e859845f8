"""A row says what a model is asked and what it shall answer, and is known by that alone."""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace

from poison2poison.data import (
    Row,
    Turn,
    hash_rows,
    rows_of,
)


def test_a_row_has_no_room_for_the_truth() -> None:
    assert [field.name for field in fields(Row)] == ["prompt", "target", "before", "after"]


def test_the_hash_is_of_the_content_in_order() -> None:
    one, other = ({"text": "x", "label": "a"}, {"text": "y", "label": "a"})
    hashes = {rows_of(records, "memory").sha256 for records in ([one, other], [other, one], [one], [one, other])}
    assert len(hashes) == 3


ROW = Row("p", "t", (Turn("system", "s"), Turn("user", "a")), (Turn("tool", "3"),))


def test_a_model_reads_all_turns_before_it_answers_in_their_order() -> None:
    assert ROW.text == "s\n\na\n\np\n\n3"
    assert Row("p", "t").text == "p"


def test_a_row_is_known_by_all_that_it_says() -> None:
    changed = [
        replace(ROW, prompt="q"),
        replace(ROW, target="u"),
        replace(ROW, before=ROW.before[:1]),
        replace(ROW, before=(Turn("user", "s"), ROW.before[1])),  # who speaks is said too
        replace(ROW, before=(), after=(*ROW.before, *ROW.after)),
        replace(ROW, before=(*ROW.before, *ROW.after), after=()),
    ]
    assert len({row.fingerprint for row in (ROW, *changed)}) == 7
    assert replace(ROW).fingerprint == ROW.fingerprint
    assert Row("a", "bc").fingerprint != Row("ab", "c").fingerprint


def test_a_fingerprint_says_the_same_on_every_machine() -> None:
    assert Row("a film", "good").fingerprint == hashlib.sha256(b'["a film", "good"]').hexdigest()


def test_the_hash_of_rows_is_of_each_in_turn() -> None:
    assert hash_rows([Row("a", "b")]) == Row("a", "b").fingerprint
    assert hash_rows([]) == hashlib.sha256().hexdigest()


def test_other_rows_of_the_same_kind_have_another_hash_and_no_place() -> None:
    rows = rows_of([{"text": "x", "label": "a"}, {"text": "y", "label": "b"}], "memory")
    fewer = rows.with_rows(rows.rows[:1])
    assert (len(fewer), fewer.labels, fewer.task, fewer.places) == (1, ("a", "b"), "classification", ())
    assert fewer.sha256 == hash_rows(rows.rows[:1]) != rows.sha256
    assert [*fewer] == [rows[0]] == [fewer[0]]


def test_rows_are_equal_whatever_was_noted_in_reading_them() -> None:
    rows = rows_of([{"text": "x", "label": "a", "id": 7}], "memory")
    assert rows == replace(rows, notes=(), places=())
