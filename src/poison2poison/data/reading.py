"""Rows from files or hub datasets: recognise the layout, read every row, and say what cannot be used, all at once."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, get_args

from poison2poison.config import choice, option
from poison2poison.data import readers
from poison2poison.data.answers import NUMBER, answer_of, label_of, label_order, spelled, task_of, what_is
from poison2poison.data.chats import Draft, UnusableError, refuse_half_characters
from poison2poison.data.layouts import IN_TEMPLATE, LAYOUTS, with_system_fields
from poison2poison.data.recognise import FieldsRead, Wanted, recognise
from poison2poison.data.records import Located, Place, Record
from poison2poison.data.row import Row, Rows, hash_rows
from poison2poison.errors import SHOWN, ConfigError, DataError, listed, more, told
from poison2poison.types import Task


@dataclass(frozen=True)
class DataConfig:
    """How rows are read."""

    layout: str | None = option(None, "Layout of the data. [default: recognised by the fields]")
    prompt_field: list[str] | None = option(
        None, "Name of a field of the prompt, for data in a layout of its own; several times for several, in order."
    )
    target_field: str | None = option(None, "Name of the target's field, likewise.")
    prompt_template: str | None = option(
        None,
        "How the prompt's fields are put together: a text with `{field}` for each. [default: a blank line between]",
    )
    ignore_field: list[str] | None = option(
        None, "A field that holds text and is no part of the rows; several times for several."
    )
    task: Task | None = option(None, "`classification` or `generation`. [default: what the layout is for]")
    labels: str | None = option(None, "The label set and its order, with commas. [default: what the rows hold]")
    skip_bad: bool = option(False, "Leave out the rows that cannot be used, such as those with an empty target.")

    def __post_init__(self) -> None:
        if self.layout is not None:
            choice("layout", self.layout, LAYOUTS.names())
        if self.task is not None:
            choice("task", self.task, get_args(Task))
        if bool(self.prompt_field) != bool(self.target_field):
            raise ConfigError("prompt_field and target_field: give both or none")
        if self.layout and self.prompt_field:
            raise ConfigError("layout: the fields are named already; leave it out")
        if self.prompt_template is not None:
            if not self.prompt_field:
                raise ConfigError("prompt_template: name its fields with prompt_field")
            held = IN_TEMPLATE.findall(self.prompt_template)
            if sorted(held) != sorted(self.prompt_field):
                raise ConfigError(
                    f"prompt_template: must hold {_places(self.prompt_field)}, each once; it holds "
                    f"{_places(held) or 'none'}"
                )


def _places(names: Sequence[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)


def read_rows(
    source: str, config: DataConfig | None = None, *, labels: Sequence[str] | None = None, targets: bool = True
) -> Rows:
    """Read rows from a file, a folder or pattern of files, or a hub dataset (`name:config@split#revision`).

    Args:
        source: A path (.jsonl, .json, .csv, .tsv, .parquet, .arrow; packed with gz, bz2 or zst), or the name of a hub
            dataset where no such file exists.
        config: How to read them; by default all is recognised.
        labels: The label set that the rows must keep to, instead of the configuration's; an empty one asks for texts.
        targets: Whether every record must have a target; without, rows have an empty one.

    Raises:
        DataError: Naming the file, the line and the field.
    """
    read, located = readers.records(source)
    reading = _Reading(read, config or DataConfig(), labels, targets)
    if "#" in read and read.partition("#")[2] not in source:
        reading.remarks[f"not pinned: these are the rows of {read}, which reads the same again"] = 0
    return reading.rows(located)


def rows_of(records: Iterable[Record], source: str) -> Rows:
    """Rows from records in memory, in a layout that is recognised.

    Raises:
        DataError: Naming the record and the field.
    """
    located = (Located(Place(f"{source}, record ", number), record) for number, record in enumerate(records, 1))
    return _Reading(source, DataConfig(), None, True).rows(located)


class _Bad(NamedTuple):
    """A row that cannot be used, and why."""

    place: Place
    unusable: UnusableError


class _Reading:
    """One reading of rows: what it has found out so far."""

    def __init__(self, source: str, config: DataConfig, labels: Sequence[str] | None, targets: bool) -> None:
        self.source, self.config, self.targets = source, config, targets
        self.wanted = Wanted(None if labels is None else "classification" if labels else "generation", targets)
        written = [label.strip() for label in (config.labels or "").split(",")]
        self.given = [*labels] if labels else [label for label in written if label]
        if len({*self.given}) < len(self.given):
            raise ConfigError(f"labels: {', '.join(self.given)} names a label twice")
        self.bad: list[_Bad] = []
        self.remarks: Counter[str] = Counter()

    def rows(self, located: Iterator[Located]) -> Rows:
        """Read all of them.

        Raises:
            DataError: As of `read_rows`.
        """
        # 1. Which layout?
        first = [*itertools.islice(located, SHOWN)]
        if not first:
            raise DataError(f"{self.source}: holds no rows")
        for place, record in first:
            _refuse_no_record(record, place)
        self.found = recognise(first, self.config, self.wanted)
        self.fields = FieldsRead(self.found, self.config.ignore_field or (), targets=self.targets)

        # 2. What stands there?
        drafts: list[Draft] = []
        places: list[Place] = []
        for place, record in itertools.chain(first, located):
            _refuse_no_record(record, place)
            try:
                drafts.append(self._draft(record, place))
                places.append(place)
            except UnusableError as unusable:
                self.bad.append(_Bad(place, unusable))
        self.fields.refuse_unread(self.config.task)

        # 3. What are the targets?
        self.task = self._task_of(drafts)
        read = self._targets(drafts, places)
        if self.task == "classification":
            read = self._labelled(read, places)
        self.bad.sort(key=lambda one: one.place)
        if self.bad and not self.config.skip_bad:
            raise DataError(self._bad_rows())
        rows = tuple(row for row in read if row is not None)
        held = tuple(place for row, place in zip(read, places, strict=True) if row is not None)
        if not rows:
            raise DataError(f"{self.source}: no row can be used: {self._bad_rows()}")
        labels = self._label_set(rows)
        name, notes = self.found.name, tuple(self._notes())
        return Rows(rows, self.task, labels, name, self.source, hash_rows(rows), notes, held)

    # --- prompts ---

    def _draft(self, record: Record, place: Place) -> Draft:
        _, layout, shape = self.found
        record = self.fields.own_names(record, place)
        self.fields.note(record, place)
        draft = layout.read(record, shape, self.targets)
        before = with_system_fields(record, draft.before, shape)
        if before is not draft.before:
            draft = replace(draft, before=before)
        if not isinstance(draft.prompt, str):  # empty is legal: real data sets hold such rows
            raise UnusableError(f"field {shape[0]!r} holds no text", draft.prompt)
        turns = (*draft.before, *draft.after)
        for text in (draft.prompt, *(turn.content for turn in turns)):
            refuse_half_characters(text, shape[0])
        self.remarks.update(draft.remarks)
        return draft

    # --- targets ---

    def _task_of(self, drafts: Sequence[Draft]) -> Task:
        """Whether the targets are labels or texts.

        Raises:
            ConfigError: Labels are named of texts.
            DataError: The others are needed here.
        """
        name, layout, _ = self.found
        wanted = self.wanted.task
        task = self.config.task or layout.task
        if name == "fields" and not self.config.task:  # whose task nobody knows
            guessed = task if self.given else task_of([draft.target for draft in drafts])
            task = wanted or guessed
        if self.config.labels and wanted is None and task == "generation":
            raise ConfigError(f"labels: layout {name} holds texts; leave it out, or give --task classification")
        if wanted and task != wanted:
            raise DataError(
                f"{self.source}: layout {name} holds {what_is(task)}s, but {what_is(wanted)}s are needed here; --task "
                "says otherwise"
            )
        return task

    def _targets(self, drafts: Sequence[Draft], places: Sequence[Place]) -> list[Row | None]:
        """The rows with their targets as they stand there; None for those that have none they can be used with."""
        read = label_of if self.task == "classification" else answer_of
        field = self.found.shape[-1]
        needs_labels = self.wanted.task == "classification"
        rows: list[Row | None] = []
        for draft, place in zip(drafts, places, strict=True):
            try:
                target = read(draft.target, field)
                refuse_half_characters(target, field)
            except UnusableError as unusable:
                is_given = draft.target not in (None, "")
                if self.targets or (needs_labels and is_given):
                    self.bad.append(_Bad(place, unusable))
                    rows.append(None)
                    continue
                target = ""
            rows.append(Row(draft.prompt, target, draft.before, draft.after))
        return rows

    def _labelled(self, rows: Sequence[Row | None], places: Sequence[Place]) -> list[Row | None]:
        """The rows with one spelling of each label, without those whose label is none."""
        counts = Counter(row.target for row in rows if row and row.target)
        if {spelled(label) for label in counts} == {"-1", "1"} and not self.given:
            self.given = ["-1", "1"]
        spellings = self._spellings(counts)
        out: list[Row | None] = []
        for row, place in zip(rows, places, strict=True):
            if row is None or not row.target:
                out.append(row)
                continue
            try:
                label = self._checked(spellings.get(row.target, row.target))
                out.append(row if label == row.target else replace(row, target=label))
            except UnusableError as unusable:
                self.bad.append(_Bad(place, unusable))
                out.append(None)
        return out

    def _checked(self, label: str) -> str:
        """A label of the set; none where -1 keeps it back, as in many test sets.

        Raises:
            UnusableError: It is no label.
        """
        if label in self.given:
            return label
        if label == "-1" and not self.targets:
            return ""
        if self.given:
            raise UnusableError(f"the label is not one of {listed(self.given)}", label)
        if label == "-1":
            raise UnusableError("label -1 stands for none; if it is one, name all: --labels")
        return label

    def _spellings(self, counts: Mapping[str, int]) -> dict[str, str]:
        """For each label that is spelled in several ways the one that is kept: the given, or the most common."""
        alike: dict[str, list[str]] = defaultdict(list)
        for label in counts:
            alike[spelled(label)].append(label)
        given = {spelled(label): label for label in self.given}
        kept: dict[str, str] = {}
        for name, spellings in alike.items():
            number = name if NUMBER.fullmatch(name) else None
            common = min(spellings, key=lambda label: (-counts[label], label))
            best = given.get(name) or number or common
            if others := [label for label in spellings if label != best]:
                kept |= dict.fromkeys(others, best)
                named = ", ".join(f"{told(label)} ({counts[label]} rows)" for label in others[:SHOWN])
                self.remarks[f"labels {named} are read as {told(best)}"] = 0
        return kept

    def _label_set(self, rows: Sequence[Row]) -> tuple[str, ...]:
        if self.task == "generation":
            return ()
        held = {row.target for row in rows if row.target}
        return tuple(self.given) or label_order(held)

    # --- what is said of it ---

    def _bad_rows(self) -> str:
        """What is wrong with which rows, the same reason once."""
        alike: dict[tuple[str, str], list[_Bad]] = defaultdict(list)
        for bad in self.bad:
            alike[bad.place.where, str(bad.unusable)].append(bad)
        reasons = []
        for (where, reason), rows in [*alike.items()][:SHOWN]:
            numbers = ", ".join(str(bad.place.number) for bad in rows[:SHOWN])
            held = rows[0].unusable.held
            said = f"{where}{numbers}{more(len(rows))}: {reason}"
            reasons.append(f"{said} ({held})" if held else said)
        plural = "s" * (len(self.bad) > 1)
        otherwise = "" if self.config.skip_bad else ", or leave them out with --skip-bad"
        return f"{'; '.join(reasons)}. {len(self.bad)} row{plural} cannot be used: mend them{otherwise}"

    def _notes(self) -> Iterator[str]:
        yield f"fields {', '.join(self.fields.used or self.found.shape)}"
        if self.fields.ignored:
            yield f"ignored {listed(self.fields.ignored)}"
        for remark, count in self.remarks.items():
            yield f"{remark} ({count} rows)" if count else remark
        if self.bad:
            some = ", ".join(str(bad.place.number) for bad in self.bad[:SHOWN])
            unit = self.bad[0].place.where.rsplit(", ", 1)[-1].strip()
            yield f"left out {len(self.bad)} that cannot be used ({unit} {some}{more(len(self.bad))})"


def _refuse_no_record(record: Any, place: Place) -> None:
    if not isinstance(record, Mapping) or not all(isinstance(name, str) for name in record):
        raise DataError(f"{place}: no record of fields, but {told(record)}")
