"""Rows from files or hub datasets: recognise the layout, read every row, and say what cannot be used, all at once."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from poison2poison.config import choice, option
from poison2poison.data import readers
from poison2poison.data.answers import NUMBER, answer_of, label_of, label_order, spelled, task_of, what_is
from poison2poison.data.chats import Draft, UnusableError, refuse_half_characters
from poison2poison.data.fields import advice, has_text, is_metadata, is_wording, names_of, plain_name, quoted, renamed
from poison2poison.data.layouts import (
    IN_TEMPLATE,
    LAYOUTS,
    SYSTEM,
    Fields,
    Layout,
    Record,
    named_fields,
    needed,
    with_system_fields,
)
from poison2poison.data.readers import Located
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
            choice("layout", self.layout, tuple(LAYOUTS))
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
                    f"prompt_template: must hold {', '.join(f'{{{name}}}' for name in self.prompt_field)}, each once; "
                    f"it holds {', '.join(f'{{{name}}}' for name in held) or 'none'}"
                )


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
    return _Reading(source, config or DataConfig(), labels, targets).rows(readers.records(source))


def rows_of(records: Iterable[Record], source: str) -> Rows:
    """Rows from records in memory, in a layout that is recognised.

    Raises:
        DataError: Naming the record and the field.
    """
    located = ((f"{source}, record ", number, record) for number, record in enumerate(records, 1))
    return _Reading(source, DataConfig(), None, True).rows(located)


class _Reading:
    """One reading of rows: what it has found out so far."""

    def __init__(self, source: str, config: DataConfig, labels: Sequence[str] | None, targets: bool) -> None:
        self.source, self.config, self.targets = source, config, targets
        self.wanted = labels
        self.given = [*labels] if labels else [one.strip() for one in (config.labels or "").split(",") if one.strip()]
        if len({*self.given}) < len(self.given):
            raise ConfigError(f"labels: {', '.join(self.given)} names a label twice")
        self.bad: list[tuple[str, int, UnusableError]] = []
        self.remarks: Counter[str] = Counter()
        self.used: dict[str, None] = {}
        self.ignored: dict[str, None] = {}
        self.unread: dict[str, str] = {}  # fields with text that no layout uses, and where the first is
        self.checked: set[tuple[str, ...]] = set()
        self.texts_alone = True  # whether all that is read of a prompt, or would have to be, is text
        self.left_out = {*map(plain_name, config.ignore_field or ())}

    def rows(self, located: Iterator[Located]) -> Rows:
        first = [*itertools.islice(located, SHOWN)]
        if not first:
            raise DataError(f"{self.source}: holds no rows")
        for where, number, record in first:
            _refuse_no_record(record, f"{where}{number}")
        self._recognise(first)
        drafts: list[Draft] = []
        places: list[tuple[str, int]] = []
        for where, number, record in itertools.chain(first, located):
            try:
                draft = self._draft(record, f"{where}{number}")
            except UnusableError as unusable:
                self.bad.append((where, number, unusable))
                continue
            drafts.append(draft)
            places.append((where, number))
        if self.unread:
            raise DataError(self._unread_fields())
        self._decide_task(drafts)
        rows = self._checked(drafts, places)
        return self._finished(rows)

    # --- which layout ---

    def _recognise(self, first: Sequence[Located]) -> None:
        """Find the layout by the first records; by another than the very first, where that has none."""
        config = self.config
        if config.prompt_field and config.target_field:
            self.name = "fields"
            self.layout = named_fields(config.prompt_field, config.prompt_template, config.target_field)
            self.shape: Fields = self.layout.shapes[0]
            return
        if not any(self._fits(record, first) for _, _, record in first):
            where, record = f"{first[0][0]}{first[0][1]}", first[0][2]
            if config.layout:
                shapes = "; or ".join(" + ".join(shape) for shape in LAYOUTS[config.layout].shapes[:3])
                raise DataError(f"{where}: layout {config.layout} needs {shapes}; it has {listed(record)}")
            raise DataError(f"{where}: {advice(record)}")

    def _fits(self, record: Record, first: Sequence[Located]) -> bool:
        config, names = self.config, names_of(record)
        found = {config.layout: LAYOUTS[config.layout]} if config.layout else LAYOUTS
        for targets in (True,) if self.targets else (True, False):
            # Where targets are missing, a field can be of several layouts: those of the wanted task come first.
            for name, layout in sorted(found.items(), key=lambda one: self._is_unwanted(one[1]) and not targets):
                shape = layout.shape(names, targets=targets)
                answers = [renamed(one).get(shape[-1]) for _, _, one in first] if shape else []
                if shape and (config.layout or name != "boolq" or not any(map(is_wording, answers))):
                    self.name, self.layout, self.shape = name, layout, shape
                    return True
        return False

    def _is_unwanted(self, layout: Layout) -> bool:
        return layout.task == ("classification" if self.wanted is not None and not self.wanted else "generation")

    def _draft(self, record: Record, where: str) -> Draft:
        _refuse_no_record(record, where)
        if self.name != "fields" or not record.keys() >= needed(self.shape, targets=self.targets):
            record = renamed(record)
        missing = needed(self.shape, targets=self.targets) - record.keys()
        if missing:
            self._refuse_other_layout(record, where)
            raise UnusableError(
                f"no field {sorted(missing)[0]!r}, which layout {self.name} needs; it has {listed(record)}"
            )
        self._note_unread(record, where)
        draft = self.layout.read(record, self.shape, self.targets)
        before = with_system_fields(record, draft.before, self.shape)
        if before is not draft.before:
            draft = Draft(draft.prompt, draft.target, before, draft.after, draft.remarks)
        if not isinstance(draft.prompt, str):  # empty is legal: real data sets hold such rows
            raise UnusableError(f"field {self.shape[0]!r} holds no text", draft.prompt)
        for text in (draft.prompt, *(turn.content for turn in (*draft.before, *draft.after))):
            refuse_half_characters(text, self.shape[0])
        self.remarks.update(draft.remarks)
        return draft

    def _refuse_other_layout(self, record: Record, where: str) -> None:
        for other, layout in LAYOUTS.items():
            if other != self.name and layout.shape([*record], targets=True):
                raise DataError(f"{where}: layout {other}, but the file began as {self.name}; one file, one layout")

    def _note_unread(self, record: Record, where: str) -> None:
        """Tell fields that are used from those that are not, and of those which hold text."""
        keys = tuple(record)
        read = {*self.shape, *self.layout.uses, *SYSTEM}
        if keys not in self.checked:
            self.checked.add(keys)
            self.used |= dict.fromkeys(name for name in keys if name in read)
            self.ignored |= dict.fromkeys(name for name in keys if name not in read)
        for name in keys:
            if name in read or name in self.unread or self._may_be_left(name):
                continue
            if has_text(record[name]) or (name == "label" and record[name] is not None):
                self.unread[name] = where
                read_here = [record.get(field) for field in (*self.shape[:-1], name)]
                self.texts_alone = self.texts_alone and all(isinstance(value, str) for value in read_here)

    def _may_be_left(self, name: str) -> bool:
        return name in self.layout.leaves or is_metadata(name) or plain_name(name) in self.left_out

    def _unread_fields(self) -> str:
        first = next(iter(self.unread.values()))
        unread = [*self.unread][:SHOWN]
        prompts = [*self.shape[:-1], *unread]
        by_name = "".join(f" --prompt-field {quoted(name)}" for name in prompts) + (
            f" --target-field {quoted(self.shape[-1])} --task {self.config.task or self.layout.task}"
        )
        left = "".join(f" --ignore-field {quoted(name)}" for name in unread)
        # What is no plain text, or is many fields, is not read by name; and rejected answers belong into no prompt.
        by_layout = not self.texts_alone or len(self.unread) > SHOWN or self.name == "preference"
        return (
            f"{first}: field{'s' * (len(self.unread) > 1)} {listed(self.unread)} would not be read: layout {self.name} "
            f"uses {', '.join(self.used)}. Leave out what is no part of the rows with{left}"
            + ("" if by_layout else f"; or read it too, with{by_name}")
        )

    # --- what the rows are ---

    def _decide_task(self, drafts: Sequence[Draft]) -> None:
        self.task: Task = self.config.task or self.layout.task
        if self.name == "fields" and not self.config.task:
            if self.wanted is not None:
                self.task = "classification" if self.wanted else "generation"
            elif not self.given:
                self.task = task_of([draft.target for draft in drafts])
        if self.config.labels and self.wanted is None and self.task == "generation":
            raise ConfigError(f"labels: layout {self.name} holds texts; leave it out, or give --task classification")
        wanted: Task = "classification" if self.wanted else "generation"
        if self.wanted is not None and self.task != wanted:
            raise DataError(
                f"{self.source}: layout {self.name} holds {what_is(self.task)}s, but {what_is(wanted)}s are needed "
                "here; --task says otherwise"
            )

    def _checked(self, drafts: Sequence[Draft], places: Sequence[tuple[str, int]]) -> list[Row]:
        read = label_of if self.task == "classification" else answer_of
        field = self.shape[-1]
        rows: list[Row | None] = []
        for draft, (where, number) in zip(drafts, places, strict=True):
            try:
                target = read(draft.target, field)
                refuse_half_characters(target, field)
            except UnusableError as unusable:
                if self.targets or (self.wanted and draft.target not in (None, "")):
                    self.bad.append((where, number, unusable))
                    rows.append(None)
                    continue
                target = ""
            rows.append(Row(draft.prompt, target, draft.before, draft.after))
        self.labels: tuple[str, ...] = ()
        if self.task == "classification":
            rows = self._labelled(rows, places)
        self.bad.sort(key=lambda one: one[:2])
        if self.bad and not self.config.skip_bad:
            raise DataError(self._bad_rows())
        return [row for row in rows if row is not None]

    def _labelled(self, rows: list[Row | None], places: Sequence[tuple[str, int]]) -> list[Row | None]:
        """The rows with one spelling of each label, without those whose label is none."""
        spelling = self._spellings(Counter(row.target for row in rows if row and row.target))
        known = {*self.given}
        for i, row in enumerate(rows):
            if row is None or not row.target:
                continue
            label = spelling.get(row.target, row.target)
            if label == "-1" and label not in known and not self.targets:
                rows[i] = Row(row.prompt, "", row.before, row.after)  # kept back, as in many test sets
            elif self.given and label not in known:
                named = listed(self.given)
                self.bad.append((*places[i], UnusableError(f"the label is not one of {named}", label)))
                rows[i] = None
            elif not self.given and label == "-1":
                self.bad.append(
                    (*places[i], UnusableError("label -1 stands for none; if it is one, name all: --labels"))
                )
                rows[i] = None
            elif label != row.target:
                rows[i] = Row(row.prompt, label, row.before, row.after)
        self.labels = tuple(self.given) or label_order({row.target for row in rows if row and row.target})
        return rows

    def _spellings(self, counts: Mapping[str, int]) -> dict[str, str]:
        """For each label that is spelled in several ways the one that is kept: the given, or the most common."""
        alike: dict[str, list[str]] = defaultdict(list)
        for label in counts:
            alike[spelled(label)].append(label)
        given = {spelled(label): label for label in self.given}
        if [*alike] and {*alike} == {"-1", "1"} and not self.given:
            self.given = ["-1", "1"]
        kept: dict[str, str] = {}
        for name, spellings in alike.items():
            number = name if NUMBER.fullmatch(name) else None
            best = given.get(name) or number or min(spellings, key=lambda label: (-counts[label], label))
            if others := [label for label in spellings if label != best]:
                kept |= dict.fromkeys(others, best)
                named = ", ".join(f"{told(label)} ({counts[label]} rows)" for label in others[:SHOWN])
                self.remarks[f"labels {named} are read as {told(best)}"] = 0
        return kept

    def _bad_rows(self) -> str:
        """What is wrong with which rows, the same reason once."""
        alike: dict[tuple[str, str], list[tuple[int, UnusableError]]] = defaultdict(list)
        for where, number, unusable in self.bad:
            alike[where, str(unusable)].append((number, unusable))
        reasons = []
        for (where, reason), rows in [*alike.items()][:SHOWN]:
            numbers = ", ".join(str(number) for number, _ in rows[:SHOWN])
            held = rows[0][1].held
            reasons.append(f"{where}{numbers}{more(len(rows))}: {reason}" + (f" ({held})" if held else ""))
        return (
            "; ".join(reasons)
            + f". {len(self.bad)} row{'s' * (len(self.bad) > 1)} cannot be used: mend them"
            + ("" if self.config.skip_bad else ", or leave them out with --skip-bad")
        )

    def _finished(self, rows: list[Row]) -> Rows:
        if not rows:
            raise DataError(f"{self.source}: no row can be used: {self._bad_rows()}")
        notes = [f"fields {', '.join(self.used) or ', '.join(self.shape)}"]
        if self.ignored:
            notes.append(f"ignored {listed(self.ignored)}")
        for remark, count in self.remarks.items():
            notes.append(f"{remark} ({count} rows)" if count else remark)
        if self.bad:
            some = ", ".join(str(number) for _, number, _ in self.bad[:SHOWN])
            unit = self.bad[0][0].rsplit(", ", 1)[-1].strip()
            notes.append(f"left out {len(self.bad)} that cannot be used ({unit} {some}{more(len(self.bad))})")
        done = tuple(rows)
        return Rows(done, self.task, self.labels, self.name, self.source, hash_rows(done), tuple(notes))


# --- targets ---------------------------------------------------------------------------------------------------------


def _refuse_no_record(record: Any, where: str) -> None:
    if not isinstance(record, Mapping) or not all(isinstance(name, str) for name in record):
        raise DataError(f"{where}: no record of fields, but {told(record)}")
