"""Which layout records are in, and which of their fields are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from poison2poison.data import (
    DataConfig,
    read_rows,
)
from poison2poison.errors import DataError
from records import said, write_jsonl


@pytest.mark.parametrize(
    ("record", "field", "more"),
    [
        ({"text": "x", "label": 1, "notes": "read me"}, "notes", "--prompt-field text --prompt-field notes"),
        ({"question": "x", "answer": "y", "hint": "a"}, "hint", "--target-field answer --task generation"),
        ({"prompt": "x", "completion": "y", "label": False}, "label", "--ignore-field label"),
        ({"messages": said("user: p", "assistant: t"), "images": ["a.png"]}, "images", "--ignore-field images"),
        ({"text": "x", "label": 1, "other text": "y"}, "other text", "--ignore-field 'other text'"),
    ],
)
def test_text_that_no_layout_reads_is_named(record: dict[str, Any], field: str, more: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [record] * 3)
    with pytest.raises(DataError, match=f"line 1: field '{field}' would not be read") as refused:
        read_rows(str(path))
    assert more in str(refused.value)
    assert len(read_rows(str(path), DataConfig(ignore_field=[field]))) == 3


def test_the_first_record_alone_decides_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"error": "timeout"}, *({"text": f"x{i}", "label": i % 2} for i in range(4))])
    with pytest.raises(DataError, match=r"line 1: no field 'label', which layout text-label needs.*--skip-bad"):
        read_rows(str(path))
    assert len(read_rows(str(path), DataConfig(skip_bad=True))) == 4
    answers = ["yes", "a long way"]
    write_jsonl(path, [{"question": "q", "passage": "p", "answer": answer} for answer in answers])
    assert read_rows(str(path)).layout == "context-answer"
