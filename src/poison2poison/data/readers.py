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

from poison2poison.data.arrow import arrow, hub, parquet, pinned
from poison2poison.data.records import Located, Place, Record
from poison2poison.errors import SHOWN, DataError

ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".feather")
PACKED = (".gz", ".bz2", ".zst")
ENCODINGS = {b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
"""Byte order marks, longest first; UTF-8's is read over."""
DELIMITERS = ",;\t|"
CHATS = {"messages", "conversations", "conversation", "prompt", "completion", "chosen"}
"""Lists of objects that are one row's turns, and no table."""
ABOUT = {"version", "name", "description", "license", "info", "source", "title"}
"""What a file says about its rows."""
DECODER = json.JSONDecoder()
BETWEEN = re.compile(r"[\s:,]*")
"""What stands between the values of a JSON text."""


def records(source: str) -> tuple[str, Iterator[Located]]:
    """Records of a file, of the files of a folder or a pattern, or of a hub dataset (`name:config@split#revision`).

    Returns:
        The source, a hub dataset by the commit that is read; and its records.

    Raises:
        DataError: Naming file and line.
    """
    path = Path(source).expanduser() if source.startswith("~") else Path(source)
    try:
        exists = path.exists()
    except OSError as error:  # too long a name, say
        raise DataError(f"{source[:80]}: no file can have such a name ({error.strerror})") from None
    is_pattern = any(sign in source for sign in "*?[")
    if is_pattern and not exists:
        files = _of_pattern(path, source)
    elif path.is_dir() and not _is_laid_out(path):
        files = _of_folder(path)
    elif path.is_file() or _ending(path):
        files = [path]
    else:
        source = pinned(source)
        return source, hub(source)
    return source, itertools.chain.from_iterable(map(_file, files))


def _is_laid_out(folder: Path) -> bool:
    """Whether a folder is laid out as a hub dataset: its card lists files, or they lie in a folder `data` alone."""
    card = folder / "README.md"
    head = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8"), re.DOTALL) if card.is_file() else None
    if head and re.search(r"^configs:", head.group(1), re.MULTILINE):
        return True
    return (folder / "data").is_dir() and not any(map(_ending, folder.iterdir()))


def _of_pattern(path: Path, source: str) -> list[Path]:
    found = map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207 - takes absolute patterns too
    files = sorted(file for file in found if _ending(file))
    if not files:
        raise DataError(f"{source}: no data file has such a name")
    return files


def _of_folder(folder: Path) -> list[Path]:
    """The files of a folder with one table: where some are named after a split, those of training."""
    if (folder / "dataset_dict.json").is_file():  # as `datasets` saves several splits
        splits = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_dir()))
        raise DataError(f"{folder}: holds several splits; give one of them ({splits})")
    files = sorted(path for path in folder.iterdir() if _ending(path) and path.is_file())
    if (folder / "dataset_info.json").is_file():  # one split
        return [path for path in files if _ending(path) == ".arrow"]
    training = [path for path in files if re.match(r"train(ing)?(?![a-z])", path.name)]
    chosen = training or files[:1]
    names = {path.name.split(".")[0] for path in chosen}
    alike = len(names) < len(chosen)  # one table in several formats, say
    endings = {_ending(path) for path in chosen}
    is_clear = training or len(files) == 1
    if not is_clear or alike or len(endings) > 1:
        held = ", ".join(path.name for path in files[:SHOWN]) or "it has none"
        raise DataError(f"{folder}: a folder; give one of its data files ({held}), or a pattern such as '{folder}/*'")
    return chosen


def _ending(path: Path) -> str:
    """What kind of data file it is by its name; empty where it is none."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    last = suffixes[-1] if suffixes else ""
    return last if last in ENDINGS else ""


def _file(path: Path) -> Iterator[Located]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    ending = _ending(path)
    if not ending:
        if path.suffix.lower() == ".txt":
            raise DataError(f"{path}: free text, in which nothing says what is asked and what is answered; give rows")
        raise DataError(f"{path}: not a data file; legal endings: {', '.join(ENDINGS)}, packed ({', '.join(PACKED)})")
    kinds = {".csv": _table, ".tsv": _table, ".parquet": parquet, ".arrow": arrow, ".feather": arrow}
    read = kinds.get(ending, _json)
    return read(path)


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
        marked = (name for mark, name in ENCODINGS.items() if start.startswith(mark))
        encoding = next(marked, "utf-8-sig")
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
        byte = data[error.start]
        return f"{path}, line {line}: not {name} (byte 0x{byte:02x}); save it as UTF-8"
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
    text = "".join(_lines(path))
    try:
        value = _parsed(text)
    except (ValueError, RecursionError) as error:
        if in_lines:
            return _json_lines(path)  # which names the line
        raise DataError(f"{path}: broken JSON ({error})") from None
    return _of_value(value, text, path)


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
        place = Place(where, number)
        try:
            record = _parsed(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place}: broken JSON ({error})") from None
        if not isinstance(record, dict):
            raise DataError(f"{place}: not a JSON object")
        yield Located(place, record)


def _of_value(value: Any, text: str, path: Path) -> Iterator[Located]:
    """Records of a JSON value and its text: a list of them, a list under one key, columns of equal length, or one."""
    found = _of_object(value, path) if isinstance(value, dict) else value
    if not isinstance(found, list) or not all(isinstance(record, dict) for record in found):
        raise DataError(f"{path}: not a list of JSON objects")
    lines = _first_lines(text, value, found)
    for number, (line, record) in enumerate(_flattened(found, lines), 1):
        yield Located(Place(f"{path}, record ", number, line), record)


def _first_lines(text: str, value: Any, found: list[Any]) -> list[int | None]:
    """The line on which each element of a list begins; None for one that is neither the whole value nor under a key.

    Args:
        text: Valid JSON. Its parser tells no places, so that it is read once more, element by element.
        value: Its value.
        found: The list.
    """
    at = _behind(text, 0)
    if isinstance(value, dict):
        at = _behind(text, at + 1)
        for held in value.values():
            at = _behind_value(text, at)  # the key
            if held is found:
                break
            at = _behind_value(text, at)
    if text[at] != "[":
        return [None] * len(found)
    lines, line, before = list[int | None](), 1, 0
    at = _behind(text, at + 1)
    for _ in found:
        line += text.count("\n", before, at)
        lines.append(line)
        before, at = at, _behind_value(text, at)
    return lines


def _behind_value(text: str, at: int) -> int:
    """The place of what follows a value that begins at a place of a JSON text."""
    _, end = DECODER.raw_decode(text, at)
    return _behind(text, end)


def _behind(text: str, at: int) -> int:
    """The place of what follows the white space and the signs between values."""
    found = BETWEEN.match(text, at)
    assert found  # it may be empty
    return found.end()


def _of_object(value: dict[str, Any], path: Path) -> list[Any]:
    """The records that one JSON object holds, or is.

    Raises:
        DataError: It holds several tables, or texts that would be lost.
    """
    lists = {key: held for key, held in value.items() if isinstance(held, list)}
    tables = [key for key, held in lists.items() if held and all(isinstance(one, dict) for one in held)]
    if len(tables) > 1 and len(tables) == len(value):
        raise DataError(f"{path}: holds several tables ({', '.join(tables)}); give a file for each")
    is_chat = bool(CHATS & {*value})
    if len(tables) == 1 and not is_chat:
        [name] = tables
        _refuse_texts_beside(name, value, path)
        return lists[name]
    lengths = {len(held) for held in lists.values()}
    all_lists = len(lists) == len(value) > 1
    if all_lists and len(lengths) == 1 and not tables:  # columns
        rows = zip(*value.values(), strict=True)
        return [dict(zip(value, row, strict=True)) for row in rows]
    return [value]


def _refuse_texts_beside(name: str, value: dict[str, Any], path: Path) -> None:
    for key, held in value.items():
        if isinstance(held, str) and " " in held and key not in ABOUT:
            raise DataError(f"{path}: {key!r} beside the list {name!r} would not be read; put it into the rows")


def _flattened(held: list[dict[str, Any]], lines: list[int | None]) -> Iterable[tuple[int | None, Record]]:
    """Records and their lines; SQuAD's own files nest questions in paragraphs of articles, which have the lines."""
    for line, record in zip(lines, held, strict=True):
        paragraphs = record.get("paragraphs")
        if not isinstance(paragraphs, list) or not paragraphs or not all(map(_is_paragraph, paragraphs)):
            yield line, record
            continue
        for paragraph in paragraphs:
            for question in paragraph["qas"]:
                yield line, {"context": paragraph["context"], **question}


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
    try:
        names = next(row for row in reader if row)
        place = Place(f"{path}, line ", reader.line_num)
        if len({*names}) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"{place}: field {twice!r} stands there twice")
        before = reader.line_num
        for values in reader:
            place, before = Place(place.where, before + 1), reader.line_num  # a field may have several lines
            if len(values) > len(names):
                raise DataError(f"{place}: more fields than the first line names")
            if values and len(values) < len(names):
                raise DataError(f"{place}: {len(values)} fields, of {len(names)} in the first line")
            if values:
                yield Located(place, dict(zip(names, values, strict=True)))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from None


def _dialect(path: Path, delimiter: str) -> dict[str, Any]:
    """How a table is quoted: the first way in which all of its rows have as many fields as the first.

    A field in quotation marks with doubled ones within, or with a backslash before these; or quotation marks are part
    of the texts, each of which has a line of its own. Where none fits, the first, which will say what is wrong.
    """
    ways: list[dict[str, Any]] = [{"strict": True}, {"quoting": csv.QUOTE_NONE}]
    if any('\\"' in line for line in _lines(path)):
        ways.insert(1, {"doublequote": False, "escapechar": "\\"})
    fitting = (way for way in ways if _fits(path, delimiter, way))
    return {"delimiter": delimiter, **next(fitting, ways[0])}


def _fits(path: Path, delimiter: str, way: Mapping[str, Any]) -> bool:
    try:
        rows = csv.reader(_lines(path), delimiter=delimiter, **way)
        lengths = (len(row) for row in rows if row)
        first = next(lengths)
        return all(length == first for length in lengths)
    except csv.Error:
        return False
