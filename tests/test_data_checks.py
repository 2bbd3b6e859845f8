"""What was read, in one line; what may be trained and measured on; rows as records."""

from __future__ import annotations

from pathlib import Path

import pytest

from poison2poison.data import (
    as_records,
    check_apart,
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
