"""Where a record stands, in words."""

from __future__ import annotations

from poison2poison.data.records import Place


def test_a_place_is_named_by_file_and_number() -> None:
    place = Place("some, rows.jsonl, line ", 7)
    assert str(place) == "some, rows.jsonl, line 7"
    assert (place.source, place.line) == ("some, rows.jsonl", 7)


def test_a_file_that_has_no_lines_has_no_line() -> None:
    place = Place("rows.parquet, record ", 7)
    assert (place.source, place.line) == ("rows.parquet", None)


def test_places_of_one_file_stand_in_its_order() -> None:
    places = [Place("rows.jsonl, line ", number) for number in (10, 9, 2)]
    assert [place.number for place in sorted(places)] == [2, 9, 10]
