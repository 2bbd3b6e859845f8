"""Which layout records are in, and which of their fields are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from poison2poison.data import (
    DataConfig,
    read_rows,
)
from poison2poison.data.chats import UnusableError
from poison2poison.data.recognise import FieldsRead, Recognised, Wanted, recognise
from poison2poison.data.records import Located, Place
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


def located(*records: dict[str, Any]) -> list[Located]:
    return [Located(Place("rows, record ", number), record) for number, record in enumerate(records, 1)]


def recognised(*records: dict[str, Any], task: Any = None, targets: bool = True, **options: Any) -> Recognised:
    return recognise(located(*records), DataConfig(**options), Wanted(task, targets))


def test_a_layout_with_more_fields_goes_before_one_with_fewer() -> None:
    found = recognised({"question": "q", "context": "c", "answer": "t"})
    assert (found.name, found.shape) == ("context-answer", ("question", "context", "answer"))
    assert recognised({"question": "q", "answer": "t"}).name == "question-answer"


def test_questions_are_of_labels_unless_one_is_answered_in_words() -> None:
    yes = {"question": "q", "passage": "p", "answer": "Yes"}
    assert recognised(yes).name == "boolq"
    assert recognised(yes, {**yes, "answer": "By night."}).name == "context-answer"
    assert recognised({**yes, "answer": "By night."}, layout="boolq").name == "boolq"


def test_the_layout_is_that_of_the_first_record_that_has_one() -> None:
    assert recognised({"error": "late"}, {"text": "x", "label": 1}).name == "text-label"


def test_without_targets_the_task_that_is_needed_decides() -> None:
    prompt = {"question": "q", "passage": "p"}
    assert recognised(prompt, targets=False).name == "boolq"
    assert recognised(prompt, task="generation", targets=False).name == "context-answer"
    assert recognised({"text": "x"}, targets=False).name == "text-label"
    assert recognised({"text": "x"}, task="generation", targets=False).name == "document-summary"


def test_named_fields_need_no_layout() -> None:
    found = recognised({"in": "x"}, prompt_field=["in"], target_field="out")
    assert (found.name, found.shape) == ("fields", ("in", "out"))


def test_a_layout_that_was_asked_for_and_is_not_there_says_what_it_needs() -> None:
    with pytest.raises(DataError, match=r"rows, record 1: layout alpaca needs instruction \+ output; it has 'text'"):
        recognised({"text": "x", "label": 1}, layout="alpaca")


def read(found: Recognised, *records: dict[str, Any], ignore: tuple[str, ...] = ()) -> FieldsRead:
    fields = FieldsRead(found, ignore, targets=True)
    for place, record in located(*records):
        fields.note(fields.own_names(record, place), place)
    return fields


def test_fields_are_used_or_ignored_and_text_among_the_others_is_refused() -> None:
    record = {"text": "x", "label": 1, "idx": 7, "note": ""}
    fields = read(recognised(record), record)
    assert ([*fields.used], [*fields.ignored]) == (["text", "label"], ["idx", "note"])
    fields.refuse_unread(None)
    fields = read(recognised(record), record, {**record, "note": "read me"})
    assert {name: place.number for name, place in fields.unread.items()} == {"note": 2}
    with pytest.raises(DataError, match="record 2: field 'note' would not be read: layout text-label uses text, label"):
        fields.refuse_unread(None)
    read(recognised(record), {**record, "note": "read me"}, ignore=(" Note",)).refuse_unread(None)


def test_rejected_answers_are_not_offered_as_part_of_a_prompt() -> None:
    record = {"prompt": "p", "chosen": "t", "rejected": "u", "notes": "read me"}
    with pytest.raises(DataError, match=r"--ignore-field notes$"):
        read(recognised(record), record).refuse_unread(None)


def test_a_record_of_another_layout_is_no_row_of_this_one() -> None:
    found = recognised({"text": "x", "label": 1})
    with pytest.raises(DataError, match="record 2: layout prompt-completion, but the file began as text-label"):
        read(found, {"text": "x", "label": 1}, {"prompt": "p", "completion": "t"})
    with pytest.raises(UnusableError, match="no field 'label', which layout text-label needs; it has 'text'"):
        read(found, {"text": "x"})
    assert [*read(found, {" Text": "x", "LABEL": 1}).used] == ["text", "label"]
