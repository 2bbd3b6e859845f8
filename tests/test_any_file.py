"""Whatever stands in a file is read as it stands, or refused in words."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from poison2poison.data import DataConfig, read_rows
from poison2poison.errors import DataError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
FIRST = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


def as_csv(records: list[dict[str, str]], delimiter: str) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(records[0]), delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def written(records: list[dict[str, str]]) -> dict[str, bytes]:
    """The same records in every kind of file."""
    lines = "".join(json.dumps(record) + "\n" for record in records)
    plain = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    stream = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(records), stream)
    return {
        "rows.jsonl": lines.encode(),
        "rows.ndjson": plain.encode("utf-8-sig"),
        "utf16.jsonl": plain.encode("utf-16"),
        "rows.json": json.dumps(records).encode(),
        "key.json": json.dumps({"version": 1, "data": records}).encode(),
        "rows.csv": as_csv(records, ",").encode(),
        "semicolon.csv": as_csv(records, ";").encode("utf-16"),
        "rows.tsv": as_csv(records, "\t").encode(),
        "rows.jsonl.gz": gzip.compress(plain.encode()),
        "rows.parquet": stream.getvalue(),
    }


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.tuples(TEXT, FIRST), min_size=2, max_size=6))
def test_every_kind_of_file_gives_the_texts_that_were_written(texts: list[tuple[str, str]]) -> None:
    records = [{"prompt": prompt, "completion": answer} for prompt, answer in texts]
    usable = [record for record in records if record["completion"].strip()]
    with tempfile.TemporaryDirectory() as folder:
        for name, content in written(records).items():
            path = Path(folder) / name
            path.write_bytes(content)
            if not usable:
                continue
            rows = read_rows(str(path), DataConfig(skip_bad=True))
            read = [{"prompt": row.prompt, "completion": row.target} for row in rows]
            assert read == usable, name


VALUES: Any = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)
NAMES = st.sampled_from(
    "text label prompt completion messages conversations instruction input output history system chosen rejected "
    "question answer answers context premise hypothesis document summary tools role content from value x".split()
)


@settings(max_examples=500, deadline=None)
@given(records=st.lists(st.dictionaries(NAMES, VALUES, max_size=5), min_size=1, max_size=4))
def test_whatever_a_record_holds_it_is_read_or_refused(records: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        for config in (DataConfig(), DataConfig(skip_bad=True, ignore_field=["x"])):
            for targets in (True, False):
                try:
                    assert len(read_rows(str(path), config, targets=targets)) <= len(records)
                except DataError as refused:
                    assert len(str(refused)) < 5_000


@settings(max_examples=300, deadline=None)
@given(content=st.binary(max_size=200), name=st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet",
                                                              "a.arrow", "a.jsonl.gz", "a.csv.zst"]))  # fmt: skip
def test_whatever_the_bytes_are_they_are_read_or_refused(content: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(content)
        with contextlib.suppress(DataError):
            read_rows(str(Path(folder) / name))
