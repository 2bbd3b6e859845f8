from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

from poison2poison.errors import ConfigError, DataError
from poison2poison.records import DataConfig, Row, as_records, read_rows, rows_of

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
    assert [field.name for field in fields(Row)] == ["prompt", "target"]


@pytest.mark.parametrize("ending", WRITERS)
def test_every_file_type_reads_to_the_same_rows(ending: str, tmp_path: Path) -> None:
    WRITERS[ending](tmp_path / f"rows{ending}", RECORDS)
    rows = read_rows(str(tmp_path / f"rows{ending}"))
    assert list(rows) == [Row("a fine film", "good"), Row('肺纹理增多，心影 "normal"', "bad")]
    assert (rows.task, rows.labels, rows.layout) == ("classification", ("bad", "good"), "text-label")
    assert rows.sha256 == rows_of(RECORDS, "memory").sha256


@pytest.mark.parametrize(
    ("record", "prompt", "target"),
    [
        ({"text": "p", "label": 1}, "p", "1"),
        ({"sentence": "p", "label": "t", "idx": 3}, "p", "t"),
        ({"prompt": "p", "completion": "t"}, "p", "t"),
        ({"instruction": "p", "output": "t"}, "p", "t"),
        ({"instruction": "p", "input": "", "output": "t"}, "p", "t"),
        ({"instruction": "p", "input": "q", "output": "t"}, "p\n\nq", "t"),
        ({"question": "p", "answer": "t\n#### 4"}, "p", "t\n#### 4"),
        ({"document": "p", "summary": "t"}, "p", "t"),
        ({"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "t"}]}, "p", "t"),
        (
            {
                "messages": [
                    {"role": r, "content": c} for r, c in zip(("system", "user", "assistant"), "spt", strict=True)
                ]
            },
            "system: s\n\nuser: p",
            "t",
        ),
    ],
)
def test_every_layout_is_recognised(record: dict[str, Any], prompt: str, target: str) -> None:
    rows = rows_of([record], "memory")
    assert rows[0] == Row(prompt, target)
    assert rows.task == ("classification" if "label" in record else "generation")


def test_fields_task_and_labels_can_be_named(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"in": "x", "out": "10"}, {"in": "y", "out": "9"}])
    path, named = str(tmp_path / "rows.jsonl"), {"prompt_field": "in", "target_field": "out"}
    assert read_rows(path, DataConfig(**named)).labels == ("9", "10")  # numbers by value
    assert read_rows(path, DataConfig(**named, labels="10, 9, 8")).labels == ("10", "9", "8")
    assert read_rows(path, DataConfig(**named, task="generation")).labels == ()
    assert read_rows(path, DataConfig(**named), labels=["9", "10"]).labels == ("9", "10")
    with pytest.raises(ConfigError, match="labels: 9, 10, 9 names a label twice"):
        read_rows(path, DataConfig(**named, labels="9, 10, 9"))
    with pytest.raises(DataError, match=r"line 2: label '9' is not one of 10, 11"):
        read_rows(path, DataConfig(**named), labels=["10", "11"])
    with pytest.raises(DataError, match=r"line 1: fields 'in', 'out' are no known layout"):
        read_rows(path)


@pytest.mark.parametrize(
    "options", [{"layout": "poem"}, {"task": "poetry"}, {"prompt_field": "x"}, {"target_field": "x"}]
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
        (f'{GOOD}\n{{"text": "x", "label": null}}', "line 2: field 'label' holds no label but None"),
        (f'{GOOD}\n{{"text": "x", "label": 1.5}}', "line 2: field 'label' holds no label but 1.5"),
        (f'{GOOD}\n{{"text": 5, "label": "a"}}', "line 2: field 'text' holds no text but 5"),
        (
            f'{GOOD}\n{{"prompt": "x", "completion": "y"}}',
            "line 2: layout prompt-completion, but the file began as text",
        ),
        ('{"messages": [{"role": "user", "content": "x"}]}', "line 1: field 'messages' must"),
        ('{"messages": ["x", "y"]}', "line 1: field 'messages' must"),
        ('{"prompt": "x", "completion": ""}', "line 1: field 'completion' holds no text"),
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
        ("rows.jsonl", b'{"text": "x", "label": "a"}\n{"text": "\xff"}', "line 2: not UTF-8 (byte 0xff)"),
        ("rows.json", b"{}", "not a list of JSON objects"),
        ("rows.json", b"[", "broken JSON"),
        ("rows.json", b"[" * 100_000, "broken JSON"),
        ("rows.csv", b"text,label\nx,a,b\n", "line 2: more fields"),
        ("rows.parquet", b"PAR?", "not Parquet"),
        ("rows.txt", b"x", "not a data file; legal endings: .jsonl"),
    ],
)
def test_files_that_are_not_what_they_say(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        read_rows(str(tmp_path / name))
    assert said in str(error.value)


def test_a_folder_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a folder; give one of its data files \(it has none\)"):
        read_rows(str(tmp_path))
    for name in ("train.jsonl", "dev.csv", "truth.md"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"\(dev\.csv, train\.jsonl\)"):
        read_rows(str(tmp_path))


def test_a_missing_file_and_a_missing_dataset(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jsonl: no such file"):
        read_rows(str(tmp_path / "gone.jsonl"))
    with pytest.raises(DataError, match="nobody/nothing: no such file, and not loadable as a hub dataset"):
        read_rows("nobody/nothing")


def test_a_hub_dataset_is_read_with_the_names_of_its_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str, *, split: str) -> datasets.Dataset:
        asked.append((name, split))
        features = datasets.Features(
            {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
        )
        given = [{"sentence": "x", "label": 1}, {"sentence": "y", "label": -1 if split == "test" else 0}]
        return datasets.Dataset.from_list(given, features)

    monkeypatch.setattr(datasets, "load_dataset", load)
    rows = read_rows("someone/opinions", DataConfig(split="validation"))
    assert asked == [("someone/opinions", "validation")]
    assert list(rows) == [Row("x", "yes"), Row("y", "no")]
    with pytest.raises(DataError, match="record 2: field 'label' holds no label"):  # kept back by the hub
        read_rows("someone/opinions", DataConfig(split="test"))


def test_empty_prompts_are_legal_and_targets_can_be_missing(tmp_path: Path) -> None:
    assert rows_of([{"text": "", "label": 0}], "memory")[0] == Row("", "0")  # real sets hold such rows
    write_jsonl(tmp_path / "rows.jsonl", [{"text": "x"}, {"text": "y", "label": "a"}])
    assert list(read_rows(str(tmp_path / "rows.jsonl"), targets=False)) == [Row("x", ""), Row("y", "a")]


def test_chats_without_an_answer_are_inputs(tmp_path: Path) -> None:
    asked, answer = {"role": "user", "content": "p"}, {"role": "assistant", "content": "t"}
    write_jsonl(tmp_path / "rows.jsonl", [{"messages": [asked]}, {"messages": [asked, answer]}])
    assert [row.prompt for row in read_rows(str(tmp_path / "rows.jsonl"), targets=False)] == ["p", "p"]
    for turns in ([], [answer]):
        write_jsonl(tmp_path / "rows.jsonl", [{"messages": turns}])
        with pytest.raises(DataError, match="one at least before the answer"):
            read_rows(str(tmp_path / "rows.jsonl"), targets=False)


def test_a_byte_order_mark_and_windows_line_ends_are_read_over(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + f"{GOOD}\r\n{GOOD}\r\n".encode())
    assert list(read_rows(str(tmp_path / "rows.jsonl"))) == [Row("x", "a")] * 2


def test_the_hash_is_of_the_content_in_order() -> None:
    one, other = ({"text": "x", "label": "a"}, {"text": "y", "label": "a"})
    hashes = {rows_of(records, "memory").sha256 for records in ([one, other], [other, one], [one], [one, other])}
    assert len(hashes) == 3


def test_records_read_back() -> None:
    for records in (RECORDS, [{"prompt": "p", "completion": "t"}]):
        assert as_records(rows_of(records, "memory")) == records
