from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

from poison2poison.data import (
    DataConfig,
    Row,
    Turn,
    as_records,
    as_row,
    check_apart,
    read_rows,
    rows_of,
    summary,
)
from poison2poison.errors import ConfigError, DataError

RECORDS = [{"text": "a fine film", "label": "good"}, {"text": '肺纹理增多，心影 "normal"', "label": "bad"}]


def write_jsonl(path: Path, records: list[Any]) -> None:
    path.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in records), encoding="utf-8")


def write_csv(path: Path, records: list[Any]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(records[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(records)


WRITERS: dict[str, Callable[[Path, list[Any]], object]] = {
    ".jsonl": write_jsonl,
    ".ndjson": write_jsonl,
    ".json": lambda path, records: path.write_text(json.dumps(records), encoding="utf-8"),
    ".csv": write_csv,
    ".tsv": write_csv,
    ".parquet": lambda path, records: parquet.write_table(pa.Table.from_pylist(records), path),
}


def test_a_row_has_no_room_for_the_truth() -> None:
    assert [field.name for field in fields(Row)] == ["prompt", "target", "before", "after"]


@pytest.mark.parametrize("ending", WRITERS)
def test_every_file_type_reads_to_the_same_rows(ending: str, tmp_path: Path) -> None:
    WRITERS[ending](tmp_path / f"rows{ending}", RECORDS)
    rows = read_rows(str(tmp_path / f"rows{ending}"))
    assert list(rows) == [Row("a fine film", "good"), Row('肺纹理增多，心影 "normal"', "bad")]
    assert (rows.task, rows.labels, rows.layout) == ("classification", ("bad", "good"), "text-label")
    assert rows.sha256 == rows_of(RECORDS, "memory").sha256


def said(*turns: str) -> list[dict[str, str]]:
    """Turns of a chat, each written as `role: content`."""
    parts = (turn.split(": ", 1) for turn in turns)
    return [{"role": role, "content": content} for role, content in parts]


def told(*turns: str) -> list[dict[str, str]]:
    """The same in ShareGPT's way."""
    return [{"from": turn["role"], "value": turn["content"]} for turn in said(*turns)]


def turns(*texts: str) -> tuple[Turn, ...]:
    return tuple(Turn(turn["role"], turn["content"]) for turn in said(*texts))  # type: ignore[arg-type]


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


def test_the_command_that_an_error_names_works(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"title": f"a {i}", "story": "Once.", "kind": i % 2} for i in range(10)])
    with pytest.raises(DataError, match="--prompt-field title --prompt-field story --target-field kind --task class"):
        read_rows(str(path))
    named = DataConfig(prompt_field=["title", "story"], target_field="kind", task="classification")
    assert read_rows(str(path), named)[3] == Row("a 3\n\nOnce.", "1")
    written = DataConfig(prompt_field=["title", "story"], target_field="kind", prompt_template="{story} ({title})")
    assert read_rows(str(path), written)[3] == Row("Once. (a 3)", "1")
    with pytest.raises(ConfigError, match=r"prompt_template: must hold \{title\}"):
        DataConfig(prompt_field=["title"], target_field="kind", prompt_template="{story}")
    write_jsonl(path, [{"text": "Only text."}])
    with pytest.raises(DataError, match="'text' alone is free text"):
        read_rows(str(path))


def test_fields_task_and_labels_can_be_named(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"in": "x", "out": "10"}, {"in": "y", "out": "9"}])
    path = str(tmp_path / "rows.jsonl")
    named: dict[str, Any] = {"prompt_field": ["in"], "target_field": "out", "task": "classification"}
    assert read_rows(path, DataConfig(**named)).labels == ("9", "10")  # numbers by value
    assert read_rows(path, DataConfig(**named, labels="10, 9, 8")).labels == ("10", "9", "8")
    assert read_rows(path, DataConfig(**{**named, "task": "generation"})).labels == ()
    assert read_rows(path, DataConfig(**named), labels=["9", "10"]).labels == ("9", "10")
    with pytest.raises(ConfigError, match="labels: layout fields holds texts"):
        read_rows(path, DataConfig(**{**named, "task": "generation"}, labels="9"))
    with pytest.raises(ConfigError, match="labels: 9, 10, 9 names a label twice"):
        read_rows(path, DataConfig(**named, labels="9, 10, 9"))
    with pytest.raises(DataError, match=r"line 2: the label is not one of '10', '11' \('9'\)"):
        read_rows(path, DataConfig(**named), labels=["10", "11"])
    with pytest.raises(DataError, match=r"line 1: fields 'in', 'out' are no known layout"):
        read_rows(path)


def test_named_targets_are_labels_where_they_come_again(tmp_path: Path) -> None:
    named = DataConfig(prompt_field=["in"], target_field="out")
    for targets, task in (
        (["yes", "no"] * 10, "classification"),
        ([f"An answer {i}." for i in range(20)], "generation"),
    ):
        write_jsonl(tmp_path / "rows.jsonl", [{"in": "x", "out": target} for target in targets])
        assert read_rows(str(tmp_path / "rows.jsonl"), named).task == task


@pytest.mark.parametrize(
    "options",
    [
        {"layout": "poem"},
        {"task": "poetry"},
        {"prompt_field": ["x"]},
        {"target_field": "x"},
        {"layout": "alpaca", "prompt_field": ["x"], "target_field": "y"},
        {"prompt_template": "{x}"},
    ],
)
def test_illegal_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        DataConfig(**options)


GOOD = json.dumps({"text": "x", "label": "a"})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no rows"),
        (f"{GOOD}\n" * 6 + '{"text": ', "rows.jsonl, line 7: broken JSON"),
        (f"{GOOD}\n\n[1]", "rows.jsonl, line 3: not a JSON object"),
        (f'{GOOD}\n{{"text": "x"}}', "line 2: no field 'label', which layout text-label needs"),
        (f'{GOOD}\n{{"text": "x", "label": null}}', "line 2: field 'label' holds no label. 1 row cannot be used"),
        (f'{GOOD}\n{{"text": "x", "label": 1.5}}', "line 2: field 'label' holds a score and no label (1.5)"),
        (f'{GOOD}\n{{"text": 5, "label": "a"}}', "line 2: field 'text' holds no text (5)"),
        (
            f'{GOOD}\n{{"prompt": "x", "completion": "y"}}',
            "line 2: layout prompt-completion, but the file began as text",
        ),
        ('{"messages": [{"role": "user", "content": "x"}]}', "line 1: field 'messages' has no answer"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', "field 'messages' has no user turn before"),
        ('{"messages": ["x", "y"]}', "line 1: field messages, turn 1: no turn of role and content ('x')"),
        ('{"messages": []}', "line 1: field 'messages' must list turns"),
        ('{"messages": [{"role": "judge", "content": "x"}]}', "messages, turn 1: its role is none of system"),
        ('{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "content of another kind than text"),
        ('{"prompt": "x", "completion": ""}', "line 1: field 'completion' holds no text ('')"),
        ('{"instruction": "x", "input": {"room": 0}, "output": "y"}', "field 'input' holds no text ({'room': 0})"),
        ('{"instruction": "x", "output": {"hue": "red"}}', "line 1: field 'output' holds no text ({'hue': 'red'})"),
        (f'{GOOD}\n{{"text": "cut \\ud83d", "label": "a"}}', "line 2: field 'text' holds half a character"),
        (f'{GOOD}\n{{"text": "x", "label": "\\udc00"}}', "line 2: field 'label' holds half a character"),
        (
            '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "\\ud83d"}]}',
            "line 1: field 'messages' holds half a character",
        ),
    ],
)
def test_what_is_wrong_is_named(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(DataError) as error:
        read_rows(str(tmp_path / "rows.jsonl"))
    assert said in str(error.value)
    assert "rows.jsonl" in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "rows.jsonl",
            b'{"text": "x", "label": "a"}\n{"text": "\xff"}',
            "line 2: not UTF-8 (byte 0xff); save it as",
        ),
        ("rows.json", b"[1]", "not a list of JSON objects"),
        ("rows.json", b"{}", "no fields"),
        ("rows.json", b"[", "broken JSON"),
        ("rows.json", b"[" * 100_000, "broken JSON"),
        ("rows.csv", b"text,label\nx,a,b\n", "line 2: more fields"),
        ("rows.parquet", b"PAR?", "not Parquet"),
        ("rows.csv", b"text,label\nx\n", "line 2: 1 fields, of 2 in the first line"),
        ("rows.csv", b"\xff\xfet\x00e\x00x", "not UTF-16"),
        ("rows.jsonl.gz", b"text", "cannot be read"),
        ("rows.arrow", b"ARROW?", "not Arrow"),
        ("rows.txt", b"x", "free text"),
        ("rows.xlsx", b"x", "not a data file; legal endings: .jsonl"),
    ],
)
def test_files_that_are_not_what_they_say(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        read_rows(str(tmp_path / name))
    assert said in str(error.value)


def test_a_folder_is_read_by_its_files_of_training(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a folder; give one of its data files \(it has none\)"):
        read_rows(str(tmp_path))
    for name in ("one.jsonl", "two.csv", "truth.md"):
        (tmp_path / name).write_text(GOOD)
    with pytest.raises(DataError, match=r"\(one\.jsonl, two\.csv\)"):
        read_rows(str(tmp_path))
    for number in range(2):
        (tmp_path / f"train-0000{number}-of-00002.jsonl").write_text(json.dumps({"text": f"x{number}", "label": "a"}))
    assert [row.prompt for row in read_rows(str(tmp_path))] == ["x0", "x1"]
    assert [row.prompt for row in read_rows(str(tmp_path / "train*.jsonl"))] == ["x0", "x1"]
    with pytest.raises(DataError, match="no data file has such a name"):
        read_rows(str(tmp_path / "none*.jsonl"))


TABLES = {
    "semicolon.csv": "\ufefftext;label\nx, y;a\nz;b\n".encode(),
    "comma.csv": b'text,label\n"x, y",a\nz,b\n',
    "utf16.csv": 'text,label\n"x, y",a\nz,b\n'.encode("utf-16"),
    "bar.csv": b"text|label\nx, y|a\nz|b\n",
    "tab.tsv": b"text\tlabel\nx, y\ta\nz\tb\n",
    "lines.json": b'{"text": "x, y", "label": "a"}\n{"text": "z", "label": "b"}\n',
    "list.jsonl": b'[\n{"text": "x, y", "label": "a"},\n{"text": "z", "label": "b"}\n]\n',
    "key.json": b'{"version": 1, "data": [{"text": "x, y", "label": "a"}, {"text": "z", "label": "b"}]}',
    "columns.json": b'{"text": ["x, y", "z"], "label": ["a", "b"]}',
    "packed.jsonl.gz": gzip.compress(b'{"text": "x, y", "label": "a"}\n{"text": "z", "label": "b"}\n'),
    "packed.csv.zst": pa.compress(b"text;label\nx, y;a\nz;b\n", "zstd", asbytes=True),
}


@pytest.mark.parametrize("name", TABLES)
def test_what_a_file_is_is_found_out(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(TABLES[name])
    assert list(read_rows(str(tmp_path / name))) == [Row("x, y", "a"), Row("z", "b")]


def test_quotation_marks_of_a_text_swallow_no_rows(tmp_path: Path) -> None:
    lines = [f"{chr(34) if i % 3 == 0 else ''}text {i}" for i in range(40)]
    (tmp_path / "rows.tsv").write_text("text\tlabel\n" + "".join(f"{line}\t{len(line) % 2}\n" for line in lines))
    assert [row.prompt for row in read_rows(str(tmp_path / "rows.tsv"))] == lines
    (tmp_path / "rows.csv").write_text('text,label\n"one ""two""\nlines",a\n"x, y",b\n')
    assert [row.prompt for row in read_rows(str(tmp_path / "rows.csv"))] == ['one "two"\nlines', "x, y"]
    (tmp_path / "rows.csv").write_text('text,label\n"' + "long " * 50_000 + '",a\nz,b\n')
    assert len(read_rows(str(tmp_path / "rows.csv"))[0].prompt) == 250_000


@pytest.mark.parametrize(
    ("table", "found"),
    [
        ('prompt,completion\n"Well, it\nwas","yes"\n"Short","no"\n', [("Well, it\nwas", "yes"), ("Short", "no")]),
        ('prompt,completion\n"He said "hi" there",yes\nx,no\n', [('"He said "hi" there"', "yes"), ("x", "no")]),
        ('prompt,completion\n"He said \\"hi\\", twice",yes\nx,no\n', [('He said "hi", twice', "yes"), ("x", "no")]),
        ('prompt\tcompletion\n"A" is not "B"\tyes\nx\tno\n', [('"A" is not "B"', "yes"), ("x", "no")]),
        ('prompt,completion\n"a, fine film",yes\n"unclosed,no\nplain,yes\n"quoted",no\n', "line "),
        ("prompt,completion,prompt\na,b,c\n", "field 'prompt' stands there twice"),
    ],
)  # fmt: skip
def test_no_quotation_mark_merges_or_changes_texts(table: str, found: Any, tmp_path: Path) -> None:
    path = tmp_path / ("rows.tsv" if "\t" in table else "rows.csv")
    path.write_text(table)
    if isinstance(found, str):
        with pytest.raises(DataError, match=found):
            read_rows(str(path))
    else:
        assert [(row.prompt, row.target) for row in read_rows(str(path))] == found


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


def test_a_row_says_nothing_twice() -> None:
    record = {"conversations": told("system: s", "human: p", "gpt: t"), "system": "s", "idx": 1}
    assert rows_of([record], "memory")[0].before == turns("system: s")
    asked = {"from": "human", "content": None, "value": "p"}
    thought = {"role": "assistant", "content": "t", "reasoning_content": "r"}
    first, second = {"messages": [asked, thought]}, {"messages": said("user: p", "assistant: t")}
    rows = rows_of([first, second], "memory")
    assert rows[0] == rows[1]
    assert "'reasoning_content' of turns is not read (1 rows)" in summary(rows)


def test_the_first_record_alone_decides_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"error": "timeout"}, *({"text": f"x{i}", "label": i % 2} for i in range(4))])
    with pytest.raises(DataError, match=r"line 1: no field 'label', which layout text-label needs.*--skip-bad"):
        read_rows(str(path))
    assert len(read_rows(str(path), DataConfig(skip_bad=True))) == 4
    answers = ["yes", "a long way"]
    write_jsonl(path, [{"question": "q", "passage": "p", "answer": answer} for answer in answers])
    assert read_rows(str(path)).layout == "context-answer"


def test_a_template_is_filled_by_names_alone(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"q": "x", "a": "y"}] * 2)
    for template, found in (("Q: {{q}}", "Q: {x}"), ("A } {q} {", "A } x {")):
        config = DataConfig(prompt_field=["q"], target_field="a", prompt_template=template)
        assert read_rows(str(tmp_path / "rows.jsonl"), config)[0].prompt == found


def test_folders_that_datasets_saved_are_read(tmp_path: Path) -> None:
    data = datasets.Dataset.from_list([{"text": "x", "label": "a"}, {"text": "y", "label": "b"}])
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(tmp_path / "saved")
    assert list(read_rows(str(tmp_path / "saved" / "train"))) == [Row("x", "a"), Row("y", "b")]
    with pytest.raises(DataError, match=r"holds several splits; give one of them \(test, train\)"):
        read_rows(str(tmp_path / "saved"))
    for name in ("train.jsonl", "train.old.jsonl"):
        (tmp_path / name).write_text(GOOD)
    with pytest.raises(DataError, match="give one of its data files"):
        read_rows(str(tmp_path))


def test_arrow_and_parquet_have_the_names_of_classes(tmp_path: Path) -> None:
    names = datasets.ClassLabel(names=["no", "yes"])
    data = datasets.Dataset.from_list(
        [{"text": "x", "label": 1}, {"text": "y", "label": 0}],
        datasets.Features({"text": datasets.Value("string"), "label": names}),
    )
    data.to_parquet(tmp_path / "rows.parquet")
    table = data.data.table
    with pa.OSFile(str(tmp_path / "rows.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    with pa.OSFile(str(tmp_path / "rows.feather"), "wb") as file, pa.ipc.new_file(file, table.schema) as whole:
        whole.write_table(table)
    for ending in ("parquet", "arrow", "feather"):
        assert list(read_rows(str(tmp_path / f"rows.{ending}"))) == [Row("x", "yes"), Row("y", "no")]


def test_squads_own_file_nests_questions(tmp_path: Path) -> None:
    asked = [{"id": "1", "question": "q", "answers": [{"text": "t", "answer_start": 0}], "is_impossible": False}]
    content = {"version": "v2", "data": [{"title": "T t", "paragraphs": [{"context": "c", "qas": asked}]}]}
    (tmp_path / "train.json").write_text(json.dumps(content))
    assert list(read_rows(str(tmp_path / "train.json"))) == [Row("q\n\nc", "t")]


@pytest.mark.parametrize(
    ("labels", "found", "said"),
    [
        (["Positive", "positive", "positive", "negative"], ("negative", "positive"), "'Positive' (1 rows) are read as"),
        ([1, "1", 1.0, "0.0"], ("0", "1"), "'0.0' (1 rows) are read as '0'"),
        ([-1, 1, 1, -1], ("-1", "1"), ""),
        ([True, False, True, False], ("false", "true"), ""),
    ],
)
def test_a_label_has_one_spelling(labels: list[Any], found: tuple[str, ...], said: str) -> None:
    rows = rows_of([{"text": "x", "label": label} for label in labels], "memory")
    assert rows.labels == found
    assert said in summary(rows)


def test_rows_that_cannot_be_used_are_all_named_or_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    records = [{"text": "x", "label": i % 2} for i in range(40)]
    for i, bad in ((3, -1), (7, -1), (9, None), (11, float("nan"))):
        records[i]["label"] = bad
    records += [{"text": "x", "label": 2}]
    write_jsonl(path, records)
    with pytest.raises(DataError) as refused:
        read_rows(str(path))
    assert "line 4, 8: label -1 stands for none" in str(refused.value)
    assert "line 10, 12: field 'label' holds no label" in str(refused.value)
    assert "4 rows cannot be used" in str(refused.value)
    rows = read_rows(str(path), DataConfig(skip_bad=True))
    assert len(rows) == 37
    assert "left out 4 that cannot be used (line 4, 8, 10, 12)" in summary(rows)
    with pytest.raises(DataError, match="no row can be used"):
        write_jsonl(path, [{"text": "x", "label": None}])
        read_rows(str(path), DataConfig(skip_bad=True))


def test_rows_to_measure_on_are_not_those_of_training() -> None:
    rows = rows_of([{"text": f"x{i}", "label": i % 2} for i in range(10)], "rows")
    with pytest.raises(DataError, match="10 of the 10 test rows are training rows of rows"):
        check_apart(rows, rows, "test")
    other = rows_of([{"text": f"x{i}", "label": i % 2} for i in range(9, 20)], "other")
    assert check_apart(rows, other, "test") == "1 of the 11 test rows are training rows too"
    assert not check_apart(rows, other.with_rows(other.rows[1:]), "test")


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


def test_a_missing_file_and_a_missing_dataset(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jsonl: no such file"):
        read_rows(str(tmp_path / "gone.jsonl"))
    with pytest.raises(DataError, match="nobody/nothing: no such file, and not loadable as a hub dataset"):
        read_rows("nobody/nothing")


def test_a_hub_dataset_is_read_with_the_names_of_its_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(path: str, *, split: str, **more: str) -> datasets.Dataset:
        asked.append((path, split, more))
        features = datasets.Features(
            {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
        )
        given = [{"sentence": "x", "label": 1}, {"sentence": "y", "label": -1 if split == "test" else 0}]
        return datasets.Dataset.from_list(given, features)

    monkeypatch.setattr(datasets, "load_dataset", load)
    rows = read_rows("someone/opinions:en@validation#v1")
    assert asked == [("someone/opinions", "validation", {"name": "en", "revision": "v1"})]
    assert list(rows) == [Row("x", "yes"), Row("y", "no")]
    with pytest.raises(DataError, match="record 2: field 'label' holds no label"):  # kept back by the hub
        read_rows("someone/opinions@test")


def test_empty_prompts_are_legal_and_targets_can_be_missing(tmp_path: Path) -> None:
    assert rows_of([{"text": "", "label": 0}], "memory")[0] == Row("", "0")  # real sets hold such rows
    write_jsonl(tmp_path / "rows.jsonl", [{"text": "x"}, {"text": "y", "label": "a"}])
    assert list(read_rows(str(tmp_path / "rows.jsonl"), targets=False)) == [Row("x", ""), Row("y", "a")]
    write_jsonl(tmp_path / "rows.jsonl", [{"sentence": "x", "label": -1, "Notes": "read me"}])
    config = DataConfig(ignore_field=["Notes"])
    assert list(read_rows(str(tmp_path / "rows.jsonl"), config, labels=["0", "1"], targets=False)) == [Row("x", "")]


def test_chats_without_an_answer_are_inputs(tmp_path: Path) -> None:
    asked, answer = {"role": "user", "content": "p"}, {"role": "assistant", "content": "t"}
    write_jsonl(tmp_path / "rows.jsonl", [{"messages": [asked]}, {"messages": [asked, answer]}])
    assert [row.prompt for row in read_rows(str(tmp_path / "rows.jsonl"), targets=False)] == ["p", "p"]
    for turns in ([], [answer]):
        write_jsonl(tmp_path / "rows.jsonl", [{"messages": turns}])
        with pytest.raises(DataError, match=r"must list turns|no user turn before"):
            read_rows(str(tmp_path / "rows.jsonl"), targets=False)


def test_a_byte_order_mark_and_windows_line_ends_are_read_over(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + f"{GOOD}\r\n{GOOD}\r\n".encode())
    assert list(read_rows(str(tmp_path / "rows.jsonl"))) == [Row("x", "a")] * 2


def test_the_hash_is_of_the_content_in_order() -> None:
    one, other = ({"text": "x", "label": "a"}, {"text": "y", "label": "a"})
    hashes = {rows_of(records, "memory").sha256 for records in ([one, other], [other, one], [one], [one, other])}
    assert len(hashes) == 3


def test_records_read_back() -> None:
    chat = {"messages": said("system: s", "user: p", "tool: 3", "assistant: t")}
    classes = [{"messages": said("system: s", "user: p"), "label": label} for label in "ab"]
    for records in (RECORDS, [{"prompt": "p", "completion": "t"}], [chat], classes):
        assert as_records(rows_of(records, "memory")) == records
