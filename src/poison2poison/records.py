"""Rows: read from files or a hub dataset in the layouts that people have, checked before anything is done with them.

A row is a prompt and a target. It carries no flag that says whether it is poisoned: no defence can see the truth.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from poison2poison.config import choice, option
from poison2poison.errors import ConfigError, DataError
from poison2poison.scheme import Task

Record = Mapping[str, Any]
Located = tuple[str, Record]  # where a record stands ("train.jsonl, line 7"), and its fields


@dataclass(frozen=True, slots=True)
class Row:
    """One training example. For classification, `target` is the label's name."""

    prompt: str
    target: str


@dataclass(frozen=True)
class Rows:
    """Checked rows of one layout.

    Attributes:
        rows: The rows, in the order of the data.
        task: Whether the targets are labels or texts.
        labels: The label set in order (numbers by value, names by alphabet); empty for generation.
        layout: Name of the layout they were read in, one of `LAYOUTS` or `fields`.
        source: File or hub dataset.
        sha256: Hash of the rows' content.
    """

    rows: tuple[Row, ...]
    task: Task
    labels: tuple[str, ...]
    layout: str
    source: str
    sha256: str

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def with_rows(self, rows: Sequence[Row]) -> Rows:
        """The same kind of data with other rows."""
        return replace(self, rows=tuple(rows), sha256=hash_rows(rows))


@dataclass(frozen=True)
class Layout:
    """Where prompt and target stand in a record; fields that may be missing are not listed in `needs`."""

    needs: tuple[str, ...]
    target: str
    prompt: Callable[[Record], Any]
    task: Task = "generation"


def _instruction(record: Record) -> Any:
    instruction, context = record["instruction"], record.get("input")
    return f"{instruction}\n\n{context}" if context else instruction


def _turns(record: Record) -> Any:
    """Everything before the answer: a lone user turn as it is, more turns as a transcript."""
    turns = record["messages"]
    turns = turns[:-1] if turns[-1]["role"] == "assistant" else turns
    if [turn["role"] for turn in turns] == ["user"]:
        return turns[0]["content"]
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)


def _field(name: str) -> Callable[[Record], Any]:
    return lambda record: record[name]


_SURROGATE = re.compile("[\ud800-\udfff]")

LAYOUTS: dict[str, Layout] = {
    "text-label": Layout(("text", "label"), "label", _field("text"), "classification"),
    "sentence-label": Layout(("sentence", "label"), "label", _field("sentence"), "classification"),
    "prompt-completion": Layout(("prompt", "completion"), "completion", _field("prompt")),
    "alpaca": Layout(("instruction", "output"), "output", _instruction),
    "messages": Layout(("messages",), "messages", _turns),
    "question-answer": Layout(("question", "answer"), "answer", _field("question")),
    "document-summary": Layout(("document", "summary"), "summary", _field("document")),
}
"""The layouts that are recognised by their fields."""


@dataclass(frozen=True)
class DataConfig:
    """How rows are read."""

    layout: str | None = option(None, "Layout of the data. [default: recognised by the fields]")
    prompt_field: str | None = option(None, "Name of the prompt's field, for data in a layout of its own.")
    target_field: str | None = option(None, "Name of the target's field, likewise.")
    task: str | None = option(None, "`classification` or `generation`. [default: what the layout is for]")
    labels: str | None = option(None, "The label set and its order, with commas. [default: what the rows hold]")
    split: str = option("train", "Split of a hub dataset.")

    def __post_init__(self) -> None:
        if self.layout is not None:
            choice("layout", self.layout, tuple(LAYOUTS))
        if self.task is not None:
            choice("task", self.task, ("classification", "generation"))
        if (self.prompt_field is None) != (self.target_field is None):
            raise ConfigError("prompt_field and target_field: give both or none")


def read_rows(
    source: str, config: DataConfig | None = None, *, labels: Sequence[str] | None = None, targets: bool = True
) -> Rows:
    """Read rows from a file (.jsonl, .json, .csv, .tsv, .parquet) or a hub dataset.

    Args:
        source: A path, or the name of a hub dataset where no such file exists.
        config: How to read them; by default all is recognised.
        labels: The label set that the rows must keep to, instead of the configuration's; an empty one asks for texts.
        targets: Whether every record must have a target; without, rows have an empty one.

    Raises:
        DataError: Naming the file, the line and the field.
    """
    config = config or DataConfig()
    return _rows(list(_records(source, config.split)), source, config, labels, targets)


def rows_of(records: Iterable[Record], source: str) -> Rows:
    """Rows from records in memory, in a layout that is recognised.

    Raises:
        DataError: Naming the record and the field.
    """
    located = [(f"{source}, record {number}", record) for number, record in enumerate(records, 1)]
    return _rows(located, source, DataConfig(), None, True)


def as_records(rows: Rows) -> list[dict[str, Any]]:
    """The rows as plain records: text/label for labels, prompt/completion for texts."""
    prompt, target = ("text", "label") if rows.task == "classification" else ("prompt", "completion")
    return [{prompt: row.prompt, target: row.target} for row in rows]


def check_trainable(rows: Rows) -> None:
    """Refuse rows that teach nothing.

    Raises:
        DataError: A classification has one class only.
    """
    if rows.task == "classification" and len({row.target for row in rows}) < 2:
        raise DataError(f"{rows.source}: all rows have the label {rows[0].target!r}; a classifier needs two or more")


def hash_rows(rows: Sequence[Row]) -> str:
    """Sha-256 over prompts and targets in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row.prompt, row.target]).encode())
    return digest.hexdigest()


# --- from records to rows --------------------------------------------------------------------------------------------


def _rows(records: list[Located], source: str, config: DataConfig, labels: Sequence[str] | None, targets: bool) -> Rows:
    if not records:
        raise DataError(f"{source}: holds no rows")
    if config.prompt_field and config.target_field:
        name, needs = "fields", (config.prompt_field, config.target_field)
        kind = Layout(needs, config.target_field, _field(config.prompt_field), "classification")
    else:
        name = config.layout or _recognise(*records[0], targets=targets)
        kind = LAYOUTS[name]
    task: Task = config.task or kind.task  # type: ignore[assignment]
    wanted: Task = "classification" if labels else "generation"
    if labels is not None and task != wanted:
        raise DataError(
            f"{source}: layout {name} holds {_what(task)}s, but {_what(wanted)}s are needed here; --task says otherwise"
        )
    rows = [_row(where, record, name, kind, task, targets) for where, record in records]
    label_set: tuple[str, ...] = ()
    if task == "classification":
        given = labels or [label.strip() for label in (config.labels or "").split(",") if label.strip()]
        if len(set(given)) < len(given):
            raise ConfigError(f"labels: {', '.join(given)} names a label twice")
        label_set = tuple(given) or _label_order({row.target for row in rows if row.target})
        for (where, _), row in zip(records, rows, strict=True):
            if row.target not in label_set and (targets or row.target):
                raise DataError(f"{where}: label {row.target!r} is not one of {', '.join(label_set)}")
    return Rows(tuple(rows), task, label_set, name, source, hash_rows(rows))


def _recognise(where: str, record: Record, *, targets: bool) -> str:
    for name, layout in LAYOUTS.items():
        needed = layout.needs if targets or len(layout.needs) == 1 else layout.needs[:1]
        if all(field in record for field in needed):
            return name
    known = "; ".join(" + ".join(layout.needs) for layout in LAYOUTS.values())
    raise DataError(
        f"{where}: fields {', '.join(map(repr, record))} are no known layout ({known}); "
        "name the fields with --prompt-field and --target-field"
    )


def _row(where: str, record: Record, name: str, layout: Layout, task: Task, targets: bool) -> Row:
    missing = [field for field in layout.needs if field not in record]
    if missing and not (not targets and missing == [layout.target]):
        for other, candidate in LAYOUTS.items():
            if other != name and all(field in record for field in candidate.needs):
                raise DataError(f"{where}: layout {other}, but the file began as {name}; one file, one layout")
        raise DataError(f"{where}: no field {missing[0]!r}, which layout {name} needs; it has {', '.join(record)}")
    if name == "messages":
        _check_messages(where, record["messages"], targets)
    prompt = layout.prompt(record)
    if not isinstance(prompt, str):  # empty is legal: real data sets hold such rows
        raise DataError(f"{where}: field {layout.needs[0]!r} holds no text but {prompt!r}")
    _check_whole(where, layout.needs[0], prompt)
    if not targets:
        return Row(prompt, "" if record.get(layout.target) is None else str(record[layout.target]))
    target = record["messages"][-1]["content"] if name == "messages" else record[layout.target]
    if task == "classification" and isinstance(target, int):
        target = str(target)
    if task == "classification" and isinstance(target, float) and target.is_integer():  # Parquet with gaps
        target = str(int(target))
    if not isinstance(target, str) or not target.strip():
        raise DataError(f"{where}: field {layout.target!r} holds no {_what(task)} but {target!r}")
    _check_whole(where, layout.target, target)
    return Row(prompt, target.strip() if task == "classification" else target)


def _check_whole(where: str, field: str, text: str) -> None:
    if _SURROGATE.search(text):
        raise DataError(f"{where}: field {field!r} holds half a character (a lone surrogate), as of a cut emoji")


def _what(task: Task) -> str:
    return "label" if task == "classification" else "text"


def _check_messages(where: str, messages: Any, targets: bool) -> None:
    turns = messages if isinstance(messages, list) else []
    whole = all(isinstance(turn, Mapping) and isinstance(turn.get("content"), str) and "role" in turn for turn in turns)
    answered = whole and bool(turns) and turns[-1]["role"] == "assistant"
    if not whole or len(turns) <= answered or (targets and not answered):
        end = " and end with the assistant's" if targets else ", one at least before the answer"
        raise DataError(f"{where}: field 'messages' must list turns of role and content{end}")


def _label_order(found: set[str]) -> tuple[str, ...]:
    # Longer ones are no numbers of classes, and Python refuses to read thousands of digits.
    if all(re.fullmatch(r"-?\d{1,18}", label) for label in found):
        return tuple(sorted(found, key=lambda label: (int(label), label)))
    return tuple(sorted(found))


# --- from files to records -------------------------------------------------------------------------------------------


def _records(source: str, split: str) -> Iterator[Located]:
    path = Path(source)
    readers = {".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet}
    if path.suffix in readers:
        if not path.is_file():
            raise DataError(f"{source}: no such file")
        return readers[path.suffix](path)
    if path.is_dir():
        held = ", ".join(sorted(file.name for file in path.iterdir() if file.suffix in readers))
        raise DataError(f"{source}: a folder; give one of its data files ({held or 'it has none'})")
    if path.exists():
        raise DataError(f"{source}: not a data file; legal endings: {', '.join(readers)}")
    return _hub(source, split)


def _text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8 (byte 0x{data[error.start]:02x})") from None


def _jsonl(path: Path) -> Iterator[Located]:
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: broken JSON ({error})") from None
        if not isinstance(record, dict):
            raise DataError(f"{where}: not a JSON object")
        yield where, record


def _json(path: Path) -> Iterator[Located]:
    try:
        records = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: broken JSON ({error})") from None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise DataError(f"{path}: not a list of JSON objects")
    for number, record in enumerate(records, 1):
        yield f"{path}, record {number}", record


def _csv(path: Path) -> Iterator[Located]:
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), delimiter="\t" if path.suffix == ".tsv" else ",")
    try:
        for record in reader:
            where = f"{path}, line {reader.line_num}"
            if None in record:
                raise DataError(f"{where}: more fields than the first line names")
            yield where, record
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from None


def _parquet(path: Path) -> Iterator[Located]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not Parquet ({error})") from None
    for number, record in enumerate(table.to_pylist(), 1):
        yield f"{path}, record {number}", record


def _hub(name: str, split: str) -> Iterator[Located]:
    import datasets

    try:
        data = datasets.load_dataset(name, split=split)
    except Exception as error:  # the hub client raises errors of many libraries
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{name}: no such file, and not loadable as a hub dataset, split {split!r} ({reason})"
        ) from None
    names = {column: feature.names for column, feature in data.features.items() if hasattr(feature, "names")}
    for number, record in enumerate(data, 1):
        # A label that the hub keeps back is -1.
        named = {c: names[c][record[c]] if record[c] >= 0 else None for c in names if record[c] is not None}
        yield f"{name}, record {number}", {**record, **named}
