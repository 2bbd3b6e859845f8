"""From files of every kind to records, with the place of what is wrong."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from poison2poison.data import (
    Row,
    read_rows,
    rows_of,
)
from poison2poison.errors import DataError
from records import GOOD, RECORDS, write_jsonl


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


@pytest.mark.parametrize("ending", WRITERS)
def test_every_file_type_reads_to_the_same_rows(ending: str, tmp_path: Path) -> None:
    WRITERS[ending](tmp_path / f"rows{ending}", RECORDS)
    rows = read_rows(str(tmp_path / f"rows{ending}"))
    assert list(rows) == [Row("a fine film", "good"), Row('肺纹理增多，心影 "normal"', "bad")]
    assert (rows.task, rows.labels, rows.layout) == ("classification", ("bad", "good"), "text-label")
    assert rows.sha256 == rows_of(RECORDS, "memory").sha256


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


def test_squads_own_file_nests_questions(tmp_path: Path) -> None:
    asked = [{"id": "1", "question": "q", "answers": [{"text": "t", "answer_start": 0}], "is_impossible": False}]
    content = {"version": "v2", "data": [{"title": "T t", "paragraphs": [{"context": "c", "qas": asked}]}]}
    (tmp_path / "train.json").write_text(json.dumps(content))
    assert list(read_rows(str(tmp_path / "train.json"))) == [Row("q\n\nc", "t")]


def test_a_missing_file_and_a_missing_dataset(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jsonl: no such file"):
        read_rows(str(tmp_path / "gone.jsonl"))
    with pytest.raises(DataError, match="nobody/nothing: no such file, and not loadable as a hub dataset"):
        read_rows("nobody/nothing")


def test_a_byte_order_mark_and_windows_line_ends_are_read_over(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + f"{GOOD}\r\n{GOOD}\r\n".encode())
    assert list(read_rows(str(tmp_path / "rows.jsonl"))) == [Row("x", "a")] * 2
