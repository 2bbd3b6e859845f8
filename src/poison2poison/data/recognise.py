"""Which layout records are in, and which of their fields are read: nothing that holds text is left out silently."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from poison2poison.data.chats import UnusableError
from poison2poison.data.fields import advice, has_text, is_metadata, is_wording, names_of, plain_name, quoted, renamed
from poison2poison.data.layouts import LAYOUTS, SYSTEM, Fields, Layout, named_fields, needed
from poison2poison.data.records import Located, Place, Record
from poison2poison.errors import SHOWN, DataError, listed
from poison2poison.types import Task

if TYPE_CHECKING:
    from poison2poison.data.reading import DataConfig

NAMED_SHAPES = 3
"""Of the shapes of a layout that a message names."""


class Recognised(NamedTuple):
    """The layout of the data: its name, what it is, and which of its shapes."""

    name: str
    layout: Layout
    shape: Fields


class Wanted(NamedTuple):
    """What the rows have to be: of a task, or of whatever; and whether all must have a target."""

    task: Task | None
    targets: bool


def recognise(first: Sequence[Located], config: DataConfig, wanted: Wanted) -> Recognised:
    """Find the layout by the first records; by another than the very first, where that has none.

    Raises:
        DataError: None of them is in a known layout, or in the configured one.
    """
    if config.prompt_field and config.target_field:
        own = named_fields(config.prompt_field, config.prompt_template, config.target_field)
        return Recognised("fields", own, own.shapes[0])
    for _, record in first:
        if found := _layout_of(record, first, config.layout, wanted):
            return found
    place, record = first[0]
    if not config.layout:
        raise DataError(f"{place}: {advice(record)}")
    shapes = LAYOUTS.get(config.layout).shapes[:NAMED_SHAPES]
    named = "; or ".join(" + ".join(shape) for shape in shapes)
    raise DataError(f"{place}: layout {config.layout} needs {named}; it has {listed(record)}")


def _layout_of(record: Record, first: Sequence[Located], asked: str | None, wanted: Wanted) -> Recognised | None:
    names = names_of(record)
    layouts = {asked: LAYOUTS.get(asked)} if asked else dict(LAYOUTS.items())
    for targets in (True,) if wanted.targets else (True, False):
        in_order = [*layouts.items()]
        if not targets:  # a field can be of several layouts: those of the wanted task come first
            in_order.sort(key=lambda one: one[1].task != (wanted.task or "classification"))
        for name, layout in in_order:
            shape = layout.shape(names, targets=targets)
            if shape and (asked or name != "boolq" or not _is_answered_in_words(first, shape)):
                return Recognised(name, layout, shape)
    return None


def _is_answered_in_words(first: Sequence[Located], shape: Fields) -> bool:
    return any(is_wording(renamed(record).get(shape[-1])) for _, record in first)


class FieldsRead:
    """The fields of the records, as reading goes on: those that the layout uses, and those that it does not.

    Attributes:
        used: Names of fields that are read.
        ignored: Names of all others.
        unread: Those of them that hold text and may not be left out, with the place of the first.
    """

    def __init__(self, found: Recognised, ignore: Sequence[str], *, targets: bool) -> None:
        self.found = found
        self.used: dict[str, None] = {}
        self.ignored: dict[str, None] = {}
        self.unread: dict[str, Place] = {}
        self._needed = needed(found.shape, targets=targets)
        self._read = {*found.shape, *found.layout.uses, *SYSTEM}
        self._left_out = {*map(plain_name, ignore)}
        self._known: set[tuple[str, ...]] = set()
        self._texts_alone = True  # whether all that is read of a prompt, or would have to be, is text

    def own_names(self, record: Record, place: Place) -> Record:
        """A record with the names that the layout has for its fields.

        Raises:
            DataError: The record is of another layout.
            UnusableError: It lacks a field.
        """
        name = self.found.name
        if name != "fields" or not record.keys() >= self._needed:
            record = renamed(record)
        if record.keys() >= self._needed:
            return record
        missing = sorted(self._needed - record.keys())
        for other, layout in LAYOUTS.items():
            if other != name and layout.shape([*record], targets=True):
                raise DataError(f"{place}: layout {other}, but the file began as {name}; one file, one layout")
        raise UnusableError(f"no field {missing[0]!r}, which layout {name} needs; it has {listed(record)}")

    def note(self, record: Record, place: Place) -> None:
        """Note which fields of a record are used, and which are not though they hold text."""
        keys = tuple(record)
        if keys not in self._known:
            self._known.add(keys)
            for name in keys:
                (self.used if name in self._read else self.ignored)[name] = None
        for name in keys:
            if name in self._read or name in self.unread or self._may_be_left(name):
                continue
            value = record[name]
            is_label = name == "label" and value is not None
            if has_text(value) or is_label:
                self.unread[name] = place
                beside = [record.get(field) for field in self.found.shape[:-1]]
                self._texts_alone &= all(isinstance(one, str) for one in (*beside, value))

    def _may_be_left(self, name: str) -> bool:
        return name in self.found.layout.leaves or is_metadata(name) or plain_name(name) in self._left_out

    def refuse_unread(self, task: Task | None) -> None:
        """Refuse fields that hold text and would not be read.

        Raises:
            DataError: There are some; it says how to read them or to leave them out.
        """
        if not self.unread:
            return
        name, layout, shape = self.found
        place = next(iter(self.unread.values()))
        unread = [*self.unread][:SHOWN]
        one_by_one = "".join(f" --ignore-field {quoted(field)}" for field in unread)
        plural = "s" * (len(self.unread) > 1)
        said = (
            f"{place}: field{plural} {listed(self.unread)} would not be read: layout {name} uses "
            f"{', '.join(self.used)}. Leave out what is no part of the rows with{one_by_one}"
        )
        # What is no plain text, or is many fields, is not read by name; and rejected answers belong into no prompt.
        if self._texts_alone and len(self.unread) <= SHOWN and name != "preference":
            prompts = "".join(f" --prompt-field {quoted(field)}" for field in (*shape[:-1], *unread))
            target = f" --target-field {quoted(shape[-1])} --task {task or layout.task}"
            said += f"; or read it too, with{prompts}{target}"
        raise DataError(said)
