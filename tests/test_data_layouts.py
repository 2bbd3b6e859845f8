"""Each layout reads its rows, and loses nothing of them in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from poison2poison.data import (
    DataConfig,
    Row,
    read_rows,
    rows_of,
)
from poison2poison.errors import DataError
from records import said, told, turns, write_jsonl

CALL = {"id": "c", "type": "function", "function": {"name": "find", "arguments": '{"hue": "red"}'}}
TOOLS = [{"type": "function", "function": {"name": "find"}}]
TOOLS_TEXT = 'Tools: [{"type": "function", "function": {"name": "find"}}]'
LAYOUT_ROWS: list[tuple[str, dict[str, Any], Row]] = [
    ("text-label", {"text": "p", "label": 1}, Row("p", "1")),
    ("text-label", {"sentence": "p", "label": "t", "idx": 3}, Row("p", "t")),
    ("text-label", {"text": "p", "coarse_label": "NUM", "fine_label": "NUM:date"}, Row("p", "NUM")),
    ("text-label", {"text": "p", "label": 1, "label_text": "good"}, Row("p", "good")),
    ("text-label", {"text": "p", "label": True}, Row("p", "true")),
    ("text-label", {"text": "p", "label": [2]}, Row("p", "2")),
    ("text-label", {"Text": "p", " Label": 1, "": 0}, Row("p", "1")),
    ("pair-label", {"premise": "p", "hypothesis": "h", "label": 2}, Row("p\n\nh", "2")),
    ("pair-label", {"sentence1": "p", "sentence2": "h", "gold_label": "neutral", "annotator_labels": ["neutral"],
                    "captionID": "x", "pairID": "y", "sentence1_parse": "( p )"}, Row("p\n\nh", "neutral")),
    ("pair-label", {"question": "q?", "sentence": "s", "label": 0, "idx": 0}, Row("q?\n\ns", "0")),
    ("pair-label", {"id": 1, "qid1": 1, "qid2": 2, "question1": "a?", "question2": "b?", "is_duplicate": 0},
     Row("a?\n\nb?", "0")),
    ("pair-label", {"Quality": 1, "#1 ID": 7, "#2 ID": 8, "#1 String": "a", "#2 String": "b"}, Row("a\n\nb", "1")),
    ("boolq", {"question": "q", "passage": "Long.", "answer": True, "title": "T"}, Row("q\n\nLong.", "true")),
    ("context-answer", {"context": "c", "question": "q", "answer": "t"}, Row("q\n\nc", "t")),
    ("squad", {"id": "1", "title": "T t", "context": "c", "question": "q", "answers": {"text": ["t", "u"],
                                                                                 "answer_start": [0, 3]}},
     Row("q\n\nc", "t")),
    ("prompt-completion", {"prompt": "p", "completion": "t"}, Row("p", "t")),
    ("prompt-completion", {"system": "s", "prompt": "p", "completion": "t"}, Row("p", "t", turns("system: s"))),
    ("prompt-completion", {"system_prompt": "s", "question": "p", "response": "t", "id": "flan.1"},
     Row("p", "t", turns("system: s"))),
    ("prompt-completion", {"prompt": said("system: s", "user: p"), "completion": said("assistant: t")},
     Row("p", "t", turns("system: s"))),
    ("alpaca", {"instruction": "p", "output": "t"}, Row("p", "t")),
    ("alpaca", {"instruction": "p", "input": "", "output": "t", "text": "Below is: p t"}, Row("p", "t")),
    ("alpaca", {"instruction": "p", "input": "q", "output": "t"}, Row("p\n\nq", "t")),
    ("alpaca", {"instruction": "p", "input": "q", "output": "t", "system": "s", "history": [["a", "b"]]},
     Row("p\n\nq", "t", turns("system: s", "user: a", "assistant: b"))),
    ("dolly", {"instruction": "p", "context": "c", "response": "t", "category": "closed_qa"}, Row("p\n\nc", "t")),
    ("question-answer", {"question": "p", "answer": "t\n#### 4"}, Row("p", "t\n#### 4")),
    ("question-answer", {"question": "1+1?", "answer": 2}, Row("1+1?", "2")),
    ("document-summary", {"document": "p", "summary": "t"}, Row("p", "t")),
    ("document-summary", {"fname": "train_0", "dialogue": "p", "summary": "t", "topic": "a walk"}, Row("p", "t")),
    ("document-summary", {"article": "p", "highlights": "t", "id": "f0a1"}, Row("p", "t")),
    ("messages", {"messages": said("user: p", "assistant: t")}, Row("p", "t")),
    ("messages", {"messages": said("system: s", "user: p", "assistant: t")}, Row("p", "t", turns("system: s"))),
    ("messages", {"messages": said("user: a", "assistant: b", "user: p", "assistant: t")},
     Row("p", "t", turns("user: a", "assistant: b"))),
    ("messages", {"messages": [*said("user: a", "assistant: b", "user: c"),
                               {"role": "assistant", "content": "no", "weight": 0}]}, Row("a", "b")),
    ("messages", {"messages": [{"role": "user", "content": [{"type": "text", "text": "p"}]},
                               {"role": "assistant", "content": [{"type": "text", "text": "t"}]}]}, Row("p", "t")),
    ("messages", {"messages": [*said("user: p"), {"role": "assistant", "content": None, "tool_calls": [CALL]},
                               {"role": "tool", "tool_call_id": "c", "content": "3"}, *said("assistant: t")],
                  "tools": TOOLS},
     Row("p", "t", turns(f"system: {TOOLS_TEXT}"), turns('assistant: {"name": "find", "arguments": {"hue": "red"}}',
                                                       "tool: 3"))),
    ("messages", {"messages": [*said("user: p"), {"role": "assistant", "content": "", "tool_calls": [CALL]}]},
     Row("p", '{"name": "find", "arguments": {"hue": "red"}}')),
    ("sharegpt", {"conversations": told("system: s", "human: p", "gpt: t"), "id": "x_1"},
     Row("p", "t", turns("system: s"))),
    ("sharegpt", {"conversations": json.dumps(told("human: p", "gpt: t")), "system": "s"},
     Row("p", "t", turns("system: s"))),
    ("sharegpt", {"conversations": told("human: p", "function_call: c", "observation: o", "gpt: t")},
     Row("p", "t", (), turns("assistant: c", "tool: o"))),
    ("sharegpt", {"conversations": told("human: p", "gpt: t", "human: and?")}, Row("p", "t")),
    ("preference", {"prompt": "p", "chosen": "t", "rejected": "u"}, Row("p", "t")),
    ("preference", {"prompt": "p", "chosen": said("user: p", "assistant: t"),
                    "rejected": said("user: p", "assistant: u")}, Row("p", "t")),
    ("preference", {"conversations": told("human: p"), "chosen": told("gpt: t")[0], "rejected": told("gpt: u")[0]},
     Row("p", "t")),
]  # fmt: skip


@pytest.mark.parametrize(("layout", "record", "row"), LAYOUT_ROWS)
def test_every_layout_is_recognised(layout: str, record: dict[str, Any], row: Row) -> None:
    rows = rows_of([record], "memory")
    assert (rows.layout, rows[0]) == (layout, row)
    assert rows.task == ("classification" if layout in ("text-label", "pair-label", "boolq") else "generation")


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({"messages": [{"role": "user"}, *said("assistant: t")]}, "messages, turn 1: has no content"),
        ({"messages": [{"role": "user", "Content": "p"}, *said("assistant: t")]}, "turn 1: has no content"),
        ({"messages": [*said("user: p"), {"role": "assistant", "tool_calls": 1}]}, "calls of tools are no list (1)"),
        ({"messages": said("user: p", "assistant: t"), "label": False}, "ends with an answer, and there is a label"),
        ({"prompt": said("user: a", "assistant: b", "user: c"), "completion": None}, "'completion' holds no text"),
        ({"prompt": "p", "chosen": said("user: other", "assistant: t"), "rejected": "u"}, "asks something else than"),
        ({"instruction": "p", "output": "t", "history": 3}, "field 'history' lists no pairs of texts (3)"),
        ({"instruction": "p", "output": "t", "history": ["ab"]}, "field 'history', turn 1: not a pair of texts"),
        ({"task": "Translate.", "input": "dog", "output": "chien"}, "field 'task' would not be read"),
        ({"subject": "Mail", "text": "x", "label": 1}, "field 'subject' would not be read"),
    ],
)
def test_nothing_of_a_row_is_lost_in_silence(record: dict[str, Any], why: str) -> None:
    with pytest.raises(DataError) as refused:
        rows_of([record], "memory")
    assert why in str(refused.value)


def test_a_template_is_filled_by_names_alone(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"q": "x", "a": "y"}] * 2)
    for template, found in (("Q: {{q}}", "Q: {x}"), ("A } {q} {", "A } x {")):
        config = DataConfig(prompt_field=["q"], target_field="a", prompt_template=template)
        assert read_rows(str(tmp_path / "rows.jsonl"), config)[0].prompt == found
