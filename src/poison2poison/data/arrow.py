"""Records of Arrow tables: Parquet, Arrow and Feather files, and hub datasets, whose classes have names."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from poison2poison.data.records import Located, Place, Record
from poison2poison.errors import SHOWN, DataError

Names = Mapping[str, list[str]]
"""Names of classes by column."""
COMMIT = re.compile("[0-9a-f]{40}")


def parquet(path: Path) -> Iterator[Located]:
    """Records of a Parquet file.

    Raises:
        DataError: It is none, or cannot be read.
    """
    from pyarrow import parquet as arrows

    try:
        with arrows.ParquetFile(path) as file:
            yield from _batches(path, file.iter_batches(), file.schema_arrow.metadata)
    except DataError:
        raise
    except Exception as error:  # of Arrow, and of values that Python has not
        raise DataError(f"{path}: not Parquet, or not readable ({error})") from None


def arrow(path: Path) -> Iterator[Located]:
    """Records of an Arrow file, or of a stream, as `datasets` caches them.

    Raises:
        DataError: It is none, or cannot be read.
    """
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as stored:
            try:
                file = pa.ipc.open_file(stored)
                batches: Iterable[Any] = (file.get_batch(i) for i in range(file.num_record_batches))
            except pa.ArrowInvalid:
                stored.seek(0)
                file = batches = pa.ipc.open_stream(stored)
            yield from _batches(path, batches, file.schema.metadata)
    except DataError:
        raise
    except Exception as error:  # likewise
        raise DataError(f"{path}: not Arrow, or not readable ({error})") from None


def pinned(source: str) -> str:
    """A hub dataset by the commit that its revision is now, `name:config@split#commit`.

    Raises:
        DataError: There is no such dataset or revision.
    """
    name, config, split, revision = _parts(source)
    if revision and Path(name).is_dir():
        raise DataError(f"{name}: is a folder, which has no revision; leave out #{revision}")
    if not (COMMIT.fullmatch(revision) or Path(name).is_dir() or _is_offline()):
        from huggingface_hub import HfApi

        with _loading(name, split):
            revision = str(HfApi().dataset_info(name, revision=revision or None).sha)
    config = f":{config}" if config else ""
    commit = f"#{revision}" if revision else ""
    return f"{name}{config}@{split}{commit}"


def hub(source: str) -> Iterator[Located]:
    """Records of a hub dataset, or of a folder laid out as one: `name:config@split#revision`.

    They are streamed: neither memory nor disk holds all of them.

    Raises:
        DataError: It cannot be loaded.
    """
    import datasets

    name, config, split, revision = _parts(source)
    options = {"name": config, "revision": revision}
    given = {option: value for option, value in options.items() if value}
    streaming = Path(name).is_dir() or not _is_offline()
    with _loading(name, split):
        data = datasets.load_dataset(name, split=split, streaming=streaming, **given)
    names = {}
    for column, feature in (data.features or {}).items():  # a stream of JSON has none
        inner = getattr(feature, "feature", feature)
        if hasattr(inner, "names"):
            names[column] = inner.names
    held = iter(data)
    for number in itertools.count(1):
        with _loading(name, split):
            record = next(held, None)
        if record is None:
            return
        yield Located(Place(f"{source}, record ", number), _named(dict(record), names))


def _parts(source: str) -> tuple[str, str, str, str]:
    """Name, configuration, split and revision; empty where not given, but the split is `train` then."""
    rest, _, revision = source.partition("#")
    rest, _, split = rest.partition("@")
    name, _, config = rest.partition(":")
    return name, config, split or "train", revision


def _is_offline() -> bool:
    """Whether the user has forbidden to ask the hub: then what it gave before is read."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


@contextmanager
def _loading(name: str, split: str) -> Iterator[None]:
    """Say what could not be loaded: the hub client raises errors of many libraries.

    Raises:
        DataError: For any of them.
    """
    try:
        yield
    except Exception as error:
        lines = (str(error) or type(error).__name__).splitlines()
        reason = " ".join(lines[:2])  # the second one has the legal values
        raise DataError(
            f"{name}: no such file, and not loadable as a hub dataset, split {split!r} ({reason}); such a one is given "
            "as name:config@split#revision, of which all but the name can be left out"
        ) from None


def _batches(path: Path, batches: Iterable[Any], metadata: Mapping[bytes, bytes] | None) -> Iterator[Located]:
    names, number = _class_names(metadata or {}), 0
    for batch in batches:
        fields = batch.schema.names
        if len({*fields}) < len(fields):
            raise DataError(f"{path}: a field stands there twice ({', '.join(fields[:SHOWN])})")
        for record in batch.to_pylist():
            number += 1
            yield Located(Place(f"{path}, record ", number), _named(record, names))


def _class_names(metadata: Mapping[bytes, bytes]) -> Names:
    """Names of classes, as `datasets` leaves them in a table's schema."""
    try:
        held = json.loads(metadata.get(b"huggingface", b"{}"))
    except (ValueError, RecursionError):
        return {}
    features = _within(_within(held, "info"), "features")
    found = {}
    for column, feature in features.items():
        names = _within(feature, "feature").get("names") or _within(features, column).get("names")
        if isinstance(names, list):
            found[column] = names
    return found


def _within(value: Any, key: str) -> dict[str, Any]:
    """The object under a key of another one; empty where there is none."""
    held = value.get(key) if isinstance(value, dict) else None
    return held if isinstance(held, dict) else {}


def _named(record: dict[str, Any], names: Names) -> Record:
    """A record with names for numbers of classes. A label that is kept back is -1."""
    for column, known in names.items():
        value = record.get(column)
        if isinstance(value, int):
            record[column] = _name(value, known)
        elif isinstance(value, list):
            record[column] = [_name(one, known) for one in value]
    return record


def _name(value: Any, known: list[str]) -> str | None:
    is_class = isinstance(value, int) and 0 <= value < len(known)
    return known[value] if is_class else None
