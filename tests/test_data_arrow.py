"""Tables whose classes have names: Parquet, Arrow, and what the datasets library saves and loads."""

from __future__ import annotations

from pathlib import Path

import datasets
import pyarrow as pa
import pytest

from poison2poison.data import (
    Row,
    read_rows,
)
from poison2poison.data.arrow import arrow, parquet
from poison2poison.errors import DataError
from records import GOOD


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


def test_numbers_of_classes_that_are_none_have_no_name(tmp_path: Path) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.List(datasets.ClassLabel(names=["no", "yes"]))}
    )
    given = [{"text": "x", "label": [1, -1]}, {"text": "y", "label": [0, 0]}]
    datasets.Dataset.from_list(given, features).to_parquet(tmp_path / "rows.parquet")
    found = [record for _, record in parquet(tmp_path / "rows.parquet")]
    assert [record["label"] for record in found] == [["yes", None], ["no", "no"]]


def test_records_are_counted_through_all_batches(tmp_path: Path) -> None:
    table = pa.table({"text": [f"x{i}" for i in range(5)]})
    with pa.OSFile(str(tmp_path / "rows.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as stream:
        stream.write_table(table, max_chunksize=2)
    places = [str(place) for place, _ in arrow(tmp_path / "rows.arrow")]
    assert places == [f"{tmp_path / 'rows.arrow'}, record {number}" for number in (1, 2, 3, 4, 5)]


def test_a_field_that_stands_there_twice_is_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["text", "text"])
    with pa.OSFile(str(tmp_path / "rows.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    with pytest.raises(DataError, match=r"a field stands there twice \(text, text\)"):
        list(arrow(tmp_path / "rows.arrow"))


@pytest.mark.parametrize("metadata", [b"{", b"[]", b'{"info": 3}', b'{"info": {"features": {"label": {"names": 7}}}}'])
def test_broken_notes_of_a_table_are_passed_over(metadata: bytes, tmp_path: Path) -> None:
    table = pa.table({"label": [1]}).replace_schema_metadata({b"huggingface": metadata})
    with pa.OSFile(str(tmp_path / "rows.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    assert [record for _, record in arrow(tmp_path / "rows.arrow")] == [{"label": 1}]
