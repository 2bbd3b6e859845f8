"""Chats: what is asked, what is answered, and what stands around."""

from __future__ import annotations

from pathlib import Path

import pytest

from poison2poison.data import (
    Row,
    as_row,
    read_rows,
    rows_of,
    summary,
)
from poison2poison.errors import DataError
from records import said, told, turns, write_jsonl


def test_a_row_says_nothing_twice() -> None:
    record = {"conversations": told("system: s", "human: p", "gpt: t"), "system": "s", "idx": 1}
    assert rows_of([record], "memory")[0].before == turns("system: s")
    asked = {"from": "human", "content": None, "value": "p"}
    thought = {"role": "assistant", "content": "t", "reasoning_content": "r"}
    first, second = {"messages": [asked, thought]}, {"messages": said("user: p", "assistant: t")}
    rows = rows_of([first, second], "memory")
    assert rows[0] == rows[1]
    assert "'reasoning_content' of turns is not read (1 rows)" in summary(rows)


def test_an_input_may_be_a_chat() -> None:
    assert as_row("p") == Row("p", "")
    assert as_row(said("system: s", "user: a", "assistant: b", "user: p")) == Row(
        "p", "", turns("system: s", "user: a", "assistant: b")
    )
    for wrong, why in (
        (said("system: s"), "has no user turn"),
        (said("user: p", "assistant: t"), "is answered already"),
        ("cut \ud83d", "half a character"),
        (5, "neither a text nor a chat"),
    ):
        with pytest.raises(DataError, match=f"input: .*{why}"):
            as_row(wrong)  # type: ignore[arg-type]


def test_chats_without_an_answer_are_inputs(tmp_path: Path) -> None:
    asked, answer = {"role": "user", "content": "p"}, {"role": "assistant", "content": "t"}
    write_jsonl(tmp_path / "rows.jsonl", [{"messages": [asked]}, {"messages": [asked, answer]}])
    assert [row.prompt for row in read_rows(str(tmp_path / "rows.jsonl"), targets=False)] == ["p", "p"]
    for held in ([], [answer]):
        write_jsonl(tmp_path / "rows.jsonl", [{"messages": held}])
        with pytest.raises(DataError, match=r"must list turns|no user turn before"):
            read_rows(str(tmp_path / "rows.jsonl"), targets=False)
