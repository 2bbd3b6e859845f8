"""From files and hub datasets to records: what stands there, as it stands there, and where."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from poison2poison.errors import DataError

Record = Mapping[str, Any]
Located = tuple[str, int, Record]
"""Where a record stands, in words that a number completes ("train.jsonl, line "), that number, and its fields."""

ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".feather")
PACKED = (".gz", ".bz2", ".zst")
SPLITS = {"train": ("train",), "validation": ("validation", "valid", "dev", "eval"), "test": ("test",)}
ENCODINGS = {b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
"""Byte order marks, longest first; UTF-8's is read over."""
DELIMITERS = ",;\t|"


def records(source: str) -> Iterator[Located]:
    """Records of a file, of the files of a folder or a pattern, or of a hub dataset (`name:config@split`).

    Raises:
        DataError: Naming file and line.
    """
    if any(sign in source for sign in "*?[") and not Path(source).exists():
        at = re.split(r"(?=[^/]*[*?\[])", source, maxsplit=1)[0]
        files = sorted(path for path in Path(at or ".").glob(source[len(at) :]) if path.is_file())
        if not files:
            raise DataError(f"{source}: no file has such a name")
        return itertools.chain.from_iterable(map(_file, files))
    path = Path(source).expanduser() if source.startswith("~") else Path(source)
    if path.is_dir():
        return itertools.chain.from_iterable(map(_file, _of_folder(path)))
    if path.exists() or _ending(path):
        return _file(path)
    return _hub(source)


def _of_folder(folder: Path) -> list[Path]:
    """The files of a folder with one table: where some are named after a split, those of training."""
    files = sorted(path for path in folder.iterdir() if _ending(path))
    named = {split: [path for path in files if re.match(rf"({'|'.join(names)})\b", path.name)]
             for split, names in SPLITS.items()}  # fmt: skip
    chosen = named["train"] or files
    held = ", ".join(path.name for path in files[:20]) or "it has none"
    others = [path for path in files if path not in named["train"]]
    if not chosen or len({_ending(path) for path in chosen}) > 1 or (not named["train"] and len(others) > 1):
        raise DataError(f"{folder}: a folder; give one of its data files ({held}), or a pattern such as '{folder}/*'")
    return chosen


def _ending(path: Path) -> str:
    """What kind of data file it is by its name; empty where it is none."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in ENDINGS else ""


def _file(path: Path) -> Iterator[Located]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    ending = _ending(path)
    if not ending:
        if path.suffix.lower() == ".txt":
            raise DataError(f"{path}: free text, in which nothing says what is asked and what is answered; give rows")
        raise DataError(f"{path}: not a data file; legal endings: {', '.join(ENDINGS)}, packed ({', '.join(PACKED)})")
    read = {".csv": _table, ".tsv": _table, ".parquet": _parquet, ".arrow": _arrow, ".feather": _arrow}
    return read.get(ending, _json)(path)


# --- text ------------------------------------------------------------------------------------------------------------


def _bytes(path: Path) -> IO[bytes]:
    if path.suffix.lower() not in PACKED:
        return path.open("rb")
    import pyarrow as pa

    kinds = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
    stream: IO[bytes] = pa.input_stream(str(path), compression=kinds[path.suffix.lower()])
    return stream


def _lines(path: Path) -> Iterator[str]:
    """Lines with their ends, which are line feeds alone: rows may hold the other ends of lines that Unicode knows."""
    try:
        with _bytes(path) as raw:
            start = raw.read(4)
        encoding = next((name for mark, name in ENCODINGS.items() if start.startswith(mark)), "utf-8-sig")
        with _bytes(path) as raw, io.TextIOWrapper(raw, encoding=encoding, newline="\n") as text:
            yield from text
    except UnicodeError:
        raise DataError(_undecodable(path, encoding)) from None
    except (EOFError, OSError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None


def _undecodable(path: Path, encoding: str) -> str:
    with _bytes(path) as raw:
        data = raw.read()
    try:
        data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        name = "UTF-8" if encoding == "utf-8-sig" else encoding.upper()
        return f"{path}, line {line}: not {name} (byte 0x{data[error.start]:02x}); save it as UTF-8"
    return f"{path}: cannot be read as {encoding}"


# --- JSON ------------------------------------------------------------------------------------------------------------


def _json(path: Path) -> Iterator[Located]:
    """JSON of either kind, whatever the file's name says: an object a line, or one value for the whole file."""
    lines = (line for line in _lines(path) if line.strip())
    first, following = next(lines, ""), next(lines, "")
    if not first:
        return iter(())
    in_lines = _ending(path) != ".json"
    if isinstance(_loads(first), dict) and (following or in_lines):
        return _json_lines(path)
    try:
        value = json.loads("".join(_lines(path)))
    except (ValueError, RecursionError) as error:
        if in_lines:
            return _json_lines(path)  # which names the line
        raise DataError(f"{path}: broken JSON ({error})") from None
    return _of_value(value, path)


def _loads(text: str) -> Any:
    """The value of a text; None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _json_lines(path: Path) -> Iterator[Located]:
    where = f"{path}, line "
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}{number}: broken JSON ({error})") from None
        if not isinstance(record, dict):
            raise DataError(f"{where}{number}: not a JSON object")
        yield where, number, record


def _of_value(value: Any, path: Path) -> Iterator[Located]:
    """Records of a JSON value: a list of them, a list under one key, columns of equal length, or one record."""
    if isinstance(value, dict):
        lists = {key: held for key, held in value.items() if isinstance(held, list)}
        tables = {key: held for key, held in lists.items() if held and all(isinstance(one, dict) for one in held)}
        lengths = {len(held) for held in lists.values()}
        if len(tables) == 1 and not {"messages", "conversations"} & {*tables}:
            value = next(iter(tables.values()))
        elif len(lists) == len(value) and len(lengths) == 1 and len(value) > 1 and not tables:
            value = [dict(zip(value, held, strict=True)) for held in zip(*value.values(), strict=True)]
        else:
            value = [value]
    if not isinstance(value, list) or not all(isinstance(record, dict) for record in value):
        raise DataError(f"{path}: not a list of JSON objects")
    where = f"{path}, record "
    return ((where, number, record) for number, record in enumerate(_flattened(value), 1))


def _flattened(held: list[dict[str, Any]]) -> Iterable[Record]:
    """SQuAD's own files nest questions in paragraphs of articles."""
    for record in held:
        paragraphs = record.get("paragraphs")
        if not isinstance(paragraphs, list):
            yield record
            continue
        for paragraph in paragraphs:
            for question in paragraph.get("qas", []):
                yield {"context": paragraph.get("context"), **question}


# --- tables ----------------------------------------------------------------------------------------------------------


def _table(path: Path) -> Iterator[Located]:
    csv.field_size_limit(sys.maxsize)
    head = next((line for line in _lines(path) if line.strip()), "")
    if not head:
        return
    usual = "\t" if ".tsv" in path.name.lower() else ","
    delimiter = usual if usual in head else max(DELIMITERS, key=head.count)
    quoted = _is_quoted(path, delimiter)
    reader = csv.reader(_lines(path), delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
    where = f"{path}, line "
    try:
        names = next(row for row in reader if row)
        for values in reader:
            if not values:
                continue
            if len(values) > len(names):
                raise DataError(f"{where}{reader.line_num}: more fields than the first line names")
            if len(values) < len(names):
                raise DataError(f"{where}{reader.line_num}: {len(values)} fields, of {len(names)} in the first line")
            yield where, reader.line_num, dict(zip(names, values, strict=True))
    except csv.Error as error:
        raise DataError(f"{where}{reader.line_num}: {error}") from None


def _is_quoted(path: Path, delimiter: str) -> bool:
    """Whether quotation marks around a field are a table's, or part of a text.

    They are the text's where each line has all fields as it is, and some field only begins or only ends with one: read
    as a table's, it would swallow the lines behind it.
    """
    fields, lopsided = None, False
    for line in _lines(path):
        parts = line.rstrip("\r\n").split(delimiter)
        if not line.strip():
            continue
        if len(parts) != (fields := fields or len(parts)):
            return True
        lopsided = lopsided or any((part[:1] == '"') != (part[-1:] == '"') or part == '"' for part in parts)
    return not lopsided


# --- Arrow -----------------------------------------------------------------------------------------------------------


def _parquet(path: Path) -> Iterator[Located]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            yield from _batches(path, file.iter_batches(), file.schema_arrow.metadata)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not Parquet ({error})") from None


def _arrow(path: Path) -> Iterator[Located]:
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as stored:
            try:
                file = pa.ipc.open_file(stored)
                batches: Iterable[Any] = (file.get_batch(i) for i in range(file.num_record_batches))
            except pa.ArrowInvalid:  # a stream, as `datasets` caches them
                stored.seek(0)
                file = batches = pa.ipc.open_stream(stored)
            yield from _batches(path, batches, file.schema.metadata)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not Arrow ({error})") from None


def _batches(path: Path, batches: Iterable[Any], metadata: Mapping[bytes, bytes] | None) -> Iterator[Located]:
    names, where, number = _class_names(metadata), f"{path}, record ", 0
    for batch in batches:
        for record in batch.to_pylist():
            number += 1
            yield where, number, _named(record, names)


def _class_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """Names of classes by column, as `datasets` leaves them in a table's schema."""
    told = _loads((metadata or {}).get(b"huggingface", b"{}").decode("utf-8", "replace"))
    features = told.get("info", {}).get("features", {}) if isinstance(told, dict) else {}
    found = {}
    for column, feature in features.items() if isinstance(features, dict) else ():
        inner = feature.get("feature", feature) if isinstance(feature, dict) else {}
        if isinstance(inner, dict) and isinstance(inner.get("names"), list):
            found[column] = inner["names"]
    return found


def _named(record: dict[str, Any], names: Mapping[str, list[str]]) -> Record:
    """A record with names for numbers of classes. A label that is kept back is -1."""
    for column, known in names.items():
        value = record.get(column)
        if isinstance(value, int):
            record[column] = known[value] if 0 <= value < len(known) else None
        elif isinstance(value, list):
            record[column] = [known[one] if isinstance(one, int) and 0 <= one < len(known) else None for one in value]
    return record


def _hub(source: str) -> Iterator[Located]:
    import datasets

    rest, _, revision = source.partition("#")
    rest, _, split = rest.partition("@")
    name, _, config = rest.partition(":")
    split = split or "train"
    options = {"name": config or None, "revision": revision or None}
    try:
        data = datasets.load_dataset(
            name, split=split, **{option: value for option, value in options.items() if value is not None}
        )
    except Exception as error:  # the hub client raises errors of many libraries
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{name}: no such file, and not loadable as a hub dataset, split {split!r} ({reason}); such a one is given "
            "as name:config@split#revision, of which all but the name can be left out"
        ) from None
    names = {}
    for column, feature in data.features.items():
        inner = getattr(feature, "feature", feature)
        if hasattr(inner, "names"):
            names[column] = inner.names
    for number, record in enumerate(data, 1):
        yield f"{source}, record ", number, _named(dict(record), names)
