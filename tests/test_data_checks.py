"""What was read, in one line; what may be trained and measured on; rows as records."""

from __future__ import annotations

from pathlib import Path

import pytest

from poison2poison.data import (
    Row,
    Turn,
    as_records,
    check_apart,
    check_trainable,
    rows_of,
    summary,
)
from poison2poison.errors import DataError
from records import RECORDS, said


def test_what_was_read_is_said_in_one_line(tmp_path: Path) -> None:
    records = [{"text": f"text {i}", "label": i % 30, "idx": i} for i in range(60)]
    line = summary(rows_of(records, "memory"))
    assert line.startswith("memory: classification, layout text-label; 60 rows; 30 labels ('0' 2, '1' 2, ")
    assert "'19' 2 and 10 more)" in line
    assert "prompts of 6 to 7 characters, median 7; fields text, label; ignored 'idx'" in line
    chats = [{"messages": said("user: a", "assistant: b", "user: p", "assistant: t", "user: more")}]
    line = summary(rows_of(chats, "memory"))
    assert "earlier answers are read and not trained on (1 rows)" in line
    assert "turns behind the last answer that counts are left out (1 rows)" in line
    assert "targets of 1 to 1, median 1" in line


def test_rows_to_measure_on_are_not_those_of_training() -> None:
    rows = rows_of([{"text": f"x{i}", "label": i % 2} for i in range(10)], "rows")
    with pytest.raises(DataError, match="10 of the 10 test rows are training rows of rows"):
        check_apart(rows, rows, "test")
    other = rows_of([{"text": f"x{i}", "label": i % 2} for i in range(9, 20)], "other")
    assert check_apart(rows, other, "test") == "1 of the 11 test rows are training rows too"
    assert not check_apart(rows, other.with_rows(other.rows[1:]), "test")


def test_records_read_back() -> None:
    chat = {"messages": said("system: s", "user: p", "tool: 3", "assistant: t")}
    classes = [{"messages": said("system: s", "user: p"), "label": label} for label in "ab"]
    for records in (RECORDS, [{"prompt": "p", "completion": "t"}], [chat], classes):
        assert as_records(rows_of(records, "memory")) == records


def test_a_classifier_needs_two_classes() -> None:
    rows = rows_of([{"text": f"x{i}", "label": "a"} for i in range(4)], "mine")
    with pytest.raises(DataError, match="mine: all rows have the label 'a'; a classifier needs two or more"):
        check_trainable(rows)
    check_trainable(rows.with_rows([*rows, Row("x", "b")]))
    check_trainable(rows_of([{"prompt": f"x{i}", "completion": "the same"} for i in range(4)], "mine"))


@pytest.mark.parametrize(("shared", "refused"), [(4, False), (5, True)])
def test_half_of_the_rows_of_training_are_too_many_to_measure_on(shared: int, refused: bool) -> None:
    training = rows_of([{"text": f"x{i}", "label": i % 2} for i in range(20)], "training")
    other = training.with_rows([*training.rows[:shared], *(Row(f"new {i}", "1") for i in range(10 - shared))])
    if refused:
        with pytest.raises(DataError, match="5 of the 10 dev rows are training rows of training"):
            check_apart(training, other, "dev")
    else:
        assert check_apart(training, other, "dev") == "4 of the 10 dev rows are training rows too"


def test_rows_that_training_has_several_times_may_be_there_by_chance() -> None:
    training = rows_of([{"text": "ok", "label": i % 2} for i in range(20)], "training")
    other = training.with_rows([Row("ok", "1")] * 3)
    assert check_apart(training, other, "test") == "3 of the 3 test rows are training rows too"


def test_no_rows_have_a_summary_too() -> None:
    rows = rows_of([{"text": "x", "label": "a"}], "mine")
    assert summary(rows.with_rows([])) == "mine: classification, layout text-label; 0 rows"


def test_one_chat_makes_all_records_chats() -> None:
    rows = rows_of([{"messages": said("user: p", "assistant: t")}], "mine")
    assert as_records(rows) == [{"prompt": "p", "completion": "t"}]
    several = rows.with_rows([*rows, Row("q", "u", (Turn("system", "s"),))])
    assert as_records(several)[0] == {"messages": said("user: p", "assistant: t")}
