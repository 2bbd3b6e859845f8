"""Tables whose classes have names: Parquet, Arrow, and what the datasets library saves and loads."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import datasets
import pyarrow as pa
import pytest
from huggingface_hub import HfApi

from poison2poison.data import (
    Row,
    read_rows,
)
from poison2poison.data.arrow import arrow, parquet
from poison2poison.data.records import Place
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


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """What the hub is asked; it has one dataset, whose branches are all at one commit."""
    asked: list[tuple[object, ...]] = []

    def about(_: HfApi, name: str, *, revision: str | None) -> SimpleNamespace:
        asked.append((name, revision))
        return SimpleNamespace(sha=COMMIT)

    def load(path: str, *, split: str, streaming: bool, **more: str) -> datasets.IterableDataset:
        asked.append((path, split, streaming, more))
        features = datasets.Features(
            {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
        )
        given = [{"sentence": "x", "label": 1}, {"sentence": "y", "label": -1 if split == "test" else 0}]
        return datasets.Dataset.from_list(given, features).to_iterable_dataset()

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # as tests are
    monkeypatch.setattr(HfApi, "dataset_info", about)
    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


def test_a_hub_dataset_is_streamed_at_a_commit_with_the_names_of_its_labels(asked: list[tuple[object, ...]]) -> None:
    rows = read_rows("someone/opinions:en@validation#v1")
    assert asked == [
        ("someone/opinions", "v1"),
        ("someone/opinions", "validation", True, {"name": "en", "revision": COMMIT}),
    ]
    assert list(rows) == [Row("x", "yes"), Row("y", "no")]
    with pytest.raises(DataError, match="record 2: field 'label' holds no label"):  # kept back by the hub
        read_rows("someone/opinions@test")


def test_the_commit_of_a_hub_dataset_is_recorded_and_said_where_it_was_not_given(
    asked: list[tuple[object, ...]],
) -> None:
    rows = read_rows("someone/opinions")
    assert rows.source == f"someone/opinions@train#{COMMIT}"
    assert rows.places[1] == Place(f"{rows.source}, record ", 2)
    assert [note for note in rows.notes if "not pinned" in note and rows.source in note]
    asked.clear()
    again = read_rows(rows.source)
    assert [call[0] for call in asked] == ["someone/opinions"]  # loaded, and not asked for its commit
    assert (again.source, again.sha256) == (rows.source, rows.sha256)
    assert not [note for note in again.notes if "not pinned" in note]


def test_a_folder_laid_out_as_a_hub_dataset_is_read_by_configuration_and_split(tmp_path: Path) -> None:
    data = tmp_path / "opinions" / "data"
    data.mkdir(parents=True)
    names = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    for number in range(2):
        for kind, text in (("train", "x"), ("de", "z")):
            given = datasets.Dataset.from_list([{"text": f"{text}{number}", "label": number}], names)
            given.to_parquet(data / f"{kind}-{number}.parquet")
    (tmp_path / "opinions" / "README.md").write_text(
        "---\nconfigs:\n- config_name: en\n  data_files:\n  - split: train\n    path: data/train-*.parquet\n"
        "- config_name: de\n  data_files:\n  - split: test\n    path: data/de-*.parquet\n---\n# Opinions\n"
    )
    folder = str(tmp_path / "opinions")
    assert list(read_rows(f"{folder}:en")) == [Row("x0", "no"), Row("x1", "yes")]
    assert [row.prompt for row in read_rows(f"{folder}:de@test")] == ["z0", "z1"]
    assert read_rows(f"{folder}:en").source == f"{folder}:en@train"
    with pytest.raises(DataError, match=r"not loadable .*'en', 'de'"):
        read_rows(folder)
    with pytest.raises(DataError, match="is a folder, which has no revision; leave out #v1"):
        read_rows(f"{folder}:en#v1")


def test_files_in_a_folder_named_data_are_those_of_a_hub_dataset(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number in range(2):
        (tmp_path / "data" / f"train-0000{number}-of-00002.jsonl").write_text(GOOD)
    assert len(read_rows(str(tmp_path))) == 2 * len(GOOD.splitlines())


def test_a_stream_that_breaks_names_the_dataset(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text(GOOD + "{broken")
    with pytest.raises(DataError, match=r"not loadable as a hub dataset, split 'train'"):
        read_rows(str(tmp_path))


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
