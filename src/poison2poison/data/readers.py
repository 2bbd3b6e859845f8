"""From files and hub datasets to records: what stands there, as it stands there, and where."""

from __future__ import annotations

import csv
import glob
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
ENCODINGS = {b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
"""Byte order marks, longest first; UTF-8's is read over."""
DELIMITERS = ",;\t|"
CHATS = {"messages", "conversations", "conversation", "prompt", "completion", "chosen"}
"""Lists of objects that are one row's turns, and no table."""
ABOUT = {"version", "name", "description", "license", "info", "source", "title"}
"""What a file says about its rows."""


def records(source: str) -> Iterator[Located]:
    """Records of a file, of the files of a folder or a pattern, or of a hub dataset (`name:config@split`).

    Raises:
        DataError: Naming file and line.
    """
    path = Path(source).expanduser() if source.startswith("~") else Path(source)
    try:
        exists = path.exists()
    except OSError as error:  # too long a name, say
        raise DataError(f"{source[:80]}: no file can have such a name ({error.strerror})") from None
    if any(sign in source for sign in "*?[") and not exists:
        found = map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207 - takes absolute patterns too
        files = sorted(file for file in found if _ending(file))
        if not files:
            raise DataError(f"{source}: no data file has such a name")
        return itertools.chain.from_iterable(map(_file, files))
    if path.is_dir():
        return itertools.chain.from_iterable(map(_file, _of_folder(path)))
    if path.exists() or _ending(path):
        return _file(path)
    return _hub(source)


def _of_folder(folder: Path) -> list[Path]:
    """The files of a folder with one table: where some are named after a split, those of training."""
    if (folder / "dataset_dict.json").is_file():  # as `datasets` saves several splits
        splits = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_dir()))
        raise DataError(f"{folder}: holds several splits; give one of them ({splits})")
    files = sorted(path for path in folder.iterdir() if _ending(path) and path.is_file())
    if (folder / "dataset_info.json").is_file():  # one split
        return [path for path in files if _ending(path) == ".arrow"]
    training = [path for path in files if re.match(r"train(ing)?(?![a-z])", path.name)]
    chosen = training or files
    alike = len({path.name.split(".")[0] for path in chosen}) < len(chosen)  # one table in several formats, say
    if not chosen or alike or (not training and len(files) > 1) or len({_ending(path) for path in chosen}) > 1:
        held = ", ".join(path.name for path in files[:20]) or "it has none"
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
        value = _parsed("".join(_lines(path)))
    except (ValueError, RecursionError) as error:
        if in_lines:
            return _json_lines(path)  # which names the line
        raise DataError(f"{path}: broken JSON ({error})") from None
    return _of_value(value, path)


def _loads(text: str) -> Any:
    """The value of a text; None where it is none."""
    try:
        return _parsed(text)
    except (ValueError, RecursionError):
        return None


def _parsed(text: str) -> Any:
    """The value of a text.

    Raises:
        ValueError: It is none, or one of its objects has a key twice, of which all but one would be lost.
    """
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, _ in pairs if sum(key == other for other, _ in pairs) > 1)
        raise ValueError(f"field {twice!r} stands there twice")
    return found


def _json_lines(path: Path) -> Iterator[Located]:
    where = f"{path}, line "
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            record = _parsed(line)
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
        if len(tables) > 1 and len(tables) == len(value):
            raise DataError(f"{path}: holds several tables ({', '.join(tables)}); give a file for each")
        if len(tables) == 1 and not CHATS & {*value}:
            [(name, table)] = tables.items()
            beside = [key for key, held in value.items() if isinstance(held, str) and " " in held and key not in ABOUT]
            if beside:
                raise DataError(
                    f"{path}: {beside[0]!r} beside the list {name!r} would not be read; put it into the rows"
                )
            value = table
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
        if not isinstance(paragraphs, list) or not paragraphs or not all(map(_is_paragraph, paragraphs)):
            yield record
            continue
        for paragraph in paragraphs:
            for question in paragraph["qas"]:
                yield {"context": paragraph["context"], **question}


def _is_paragraph(value: Any) -> bool:
    questions = value.get("qas") if isinstance(value, dict) and "context" in value else None
    return isinstance(questions, list) and all(isinstance(one, dict) for one in questions)


# --- tables ----------------------------------------------------------------------------------------------------------


def _table(path: Path) -> Iterator[Located]:
    csv.field_size_limit(sys.maxsize)
    head = next((line for line in _lines(path) if line.strip()), "")
    if not head:
        return
    usual = "\t" if ".tsv" in path.name.lower() else ","
    delimiter = usual if usual in head else max(DELIMITERS, key=head.count)
    reader = csv.reader(_lines(path), **_dialect(path, delimiter))
    where = f"{path}, line "
    try:
        names = next(row for row in reader if row)
        if len({*names}) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"{path}, line {reader.line_num}: field {twice!r} stands there twice")
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


def _dialect(path: Path, delimiter: str) -> dict[str, Any]:
    """How a table is quoted: the first way in which all of its rows have as many fields as the first.

    A field in quotation marks with doubled ones within, or with a backslash before these; or quotation marks are part
    of the texts, each of which has a line of its own. Where none fits, the first, which will say what is wrong.
    """
    ways: list[dict[str, Any]] = [{"strict": True}, {"quoting": csv.QUOTE_NONE}]
    if any('\\"' in line for line in _lines(path)):
        ways.insert(1, {"doublequote": False, "escapechar": "\\"})
    return {"delimiter": delimiter, **next((way for way in ways if _fits(path, delimiter, way)), ways[0])}


def _fits(path: Path, delimiter: str, way: Mapping[str, Any]) -> bool:
    try:
        lengths = (len(row) for row in csv.reader(_lines(path), delimiter=delimiter, **way) if row)
        first = next(lengths)
        return all(length == first for length in lengths)
    except csv.Error:
        return False


# --- Arrow -----------------------------------------------------------------------------------------------------------


def _parquet(path: Path) -> Iterator[Located]:
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            yield from _batches(path, file.iter_batches(), file.schema_arrow.metadata)
    except DataError:
        raise
    except Exception as error:  # of Arrow, and of values that Python has not
        raise DataError(f"{path}: not Parquet, or not readable ({error})") from None


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
    except DataError:
        raise
    except Exception as error:  # likewise
        raise DataError(f"{path}: not Arrow, or not readable ({error})") from None


def _batches(path: Path, batches: Iterable[Any], metadata: Mapping[bytes, bytes] | None) -> Iterator[Located]:
    names, where, number = _class_names(metadata), f"{path}, record ", 0
    for batch in batches:
        if len({*batch.schema.names}) < len(batch.schema.names):
            raise DataError(f"{path}: a field stands there twice ({', '.join(batch.schema.names[:20])})")
        for record in batch.to_pylist():
            number += 1
            yield where, number, _named(record, names)


def _class_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """Names of classes by column, as `datasets` leaves them in a table's schema."""
    features: Any = _loads((metadata or {}).get(b"huggingface", b"{}").decode("utf-8", "replace"))
    for key in ("info", "features"):
        features = features.get(key) if isinstance(features, dict) else None
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
