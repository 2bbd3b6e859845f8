"""Names of fields, whether they hold text, and what to do with those that no layout knows."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from poison2poison.data.fields import advice, has_text, is_metadata, is_wording, names_of, quoted, renamed


def test_names_are_alike_whatever_their_capitals_and_spaces() -> None:
    record = {" Text": "x", "LABEL": 1}
    assert names_of(record) == {"text": " Text", "label": "LABEL"}
    assert renamed(record) == {"text": "x", "label": 1}


def test_two_names_that_would_be_one_stay_as_they_are() -> None:
    record = {"Text": "x", "text": "y"}
    assert renamed(record) == record


@pytest.mark.parametrize("name", ["id", " Idx ", "PairID", "sent_id", "row_idx", "Unnamed: 0", ""])
def test_what_says_something_about_a_row_is_no_part_of_it(name: str) -> None:
    assert is_metadata(name)


@pytest.mark.parametrize("name", ["text", "identity", "idea", "title"])
def test_other_names_may_be_part_of_a_row(name: str) -> None:
    assert not is_metadata(name)


@pytest.mark.parametrize("value", ["words", b"words", ["", "words"], {"a": {"b": ["words"]}}, ("words",)])
def test_text_is_found_wherever_it_is_within(value: Any) -> None:
    assert has_text(value)


@pytest.mark.parametrize("value", ["", "  ", "12.5", " -3e4 ", b" ", [], {}, None, 7, True, [1, "2"]])
def test_numbers_and_nothing_are_no_text(value: Any) -> None:
    assert not has_text(value)


def test_yes_and_no_are_no_wording() -> None:
    assert [is_wording(answer) for answer in (" Yes", "false", "a yes", "", 1, True)] == [
        False, False, True, True, False, False
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["text", "sent-1.a", "other text", "it's", "$HOME", ""])
def test_a_shell_reads_a_quoted_name_as_it_is(name: str) -> None:
    assert shlex.split(f"--field {quoted(name)}") == ["--field", name]
    assert quoted("text") == "text"


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({}, "no fields"),
        ({"text": "Only text."}, "field 'text' alone is free text"),
        ({"story": "Once.", "kind": 1}, "--prompt-field story --target-field kind --task classification"),
        ({"ask": "a", "reply": "b"}, "--prompt-field ask --target-field reply --task generation"),
        ({"id": "7", "Ask": "a", "reply": "b"}, "with --prompt-field Ask --target-field reply"),
        ({"system": "s", "ask": "a", "kind": 1}, "with --prompt-field ask --target-field kind"),
        ({"n": 1, "m": 2}, "are no known layout"),
        ({"ask": ["a"], "reply": "b"}, "give rows with a prompt and a target"),
    ],
)
def test_the_advice_is_a_command_that_works_for_such_fields(record: dict[str, Any], said: str) -> None:
    assert said in advice(record)
