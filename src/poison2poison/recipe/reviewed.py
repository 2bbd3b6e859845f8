"""Answers of people about rows, a JSON object a line, and the audit that is left when they are heeded:

{"row": fingerprint, "planted": true or false, "label": the right label, or null where nobody said}

`review` brings suspects to people and their answers here; the file may be written by hand too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from poison2poison.data import FINGERPRINT, Rows
from poison2poison.errors import DataError, listed, told
from poison2poison.files import read_lines, write_lines

if TYPE_CHECKING:
    from poison2poison.auditing.findings import Audit, SuspectRow


@dataclass(frozen=True)
class Answer:
    """What people said of a row.

    Attributes:
        row: The row's fingerprint: all copies of it are meant.
        planted: Whether somebody planted it.
        label: Its right label; None where nobody said.

    Raises:
        ValueError: A field is not what it must be, by its name.
    """

    row: str
    planted: bool
    label: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.row, str) or not FINGERPRINT.fullmatch(self.row):
            raise ValueError(f"row: {told(self.row)} is no fingerprint of 64 hexadecimal digits")
        if not isinstance(self.planted, bool):
            raise ValueError(f"planted: {told(self.planted)} is not true or false")
        if self.label is not None and not isinstance(self.label, str):
            raise ValueError(f"label: {told(self.label)} is neither a label nor null")


def write_answers(path: Path | str, answers: Iterable[Answer]) -> None:
    """Write a file of answers.

    Raises:
        OutputError: It cannot be written.
    """
    write_lines(Path(path), map(asdict, answers))


def read_answers(path: Path) -> list[Answer]:
    """Read a file of answers.

    Raises:
        DataError: It is missing or broken, by line and field, or says two things of one row.
    """
    answers: dict[str, Answer] = {}
    for where, answer in read_lines(path, Answer):
        if answers.setdefault(answer.row, answer) != answer:
            raise DataError(f"{where}: row: another line says something else of {told(answer.row)}")
    return [*answers.values()]


def reviewed(audit: Audit, answers: Sequence[Answer], rows: Rows) -> Audit:
    """The audit without what people call harmless, and with what they call planted.

    Args:
        audit: Of these rows.
        answers: What people said of any of them.
        rows: The rows.

    Raises:
        DataError: A label is not one of the rows', or rows for texts are given one; or the answers are of other rows.
    """
    for one in answers:
        if one.label is not None and one.label not in rows.labels:
            legal = listed(rows.labels) or "none, for these rows have no labels"
            raise DataError(f"label: {told(one.label)} is not one of {legal}")
    said = {one.row: one for one in answers}
    if said and said.keys().isdisjoint(row.fingerprint for row in rows):
        raise DataError(f"row: none of {len(said)} answers is of a row of {rows.source}")
    known = {entry.row: entry for entry in audit.rows}
    left = []
    for i, row in enumerate(rows):
        entry = _entry(i, known.get(i), said.get(row.fingerprint), row.target)
        if entry:
            left.append(entry)
    return _with_rows(audit, left)


def _entry(row: int, known: SuspectRow | None, answer: Answer | None, target: str) -> SuspectRow | None:
    """The suspect that a row is, behind an answer."""
    from poison2poison.auditing.findings import SuspectRow

    if answer is None:
        return known
    if not answer.planted:
        return None
    if known is None:  # the audit missed it
        return SuspectRow(row, 1.0, (), (target, 0.0) if answer.label is None else (answer.label, 1.0))
    return known if answer.label is None else replace(known, likely=(answer.label, 1.0))


def _with_rows(audit: Audit, left: Sequence[SuspectRow]) -> Audit:
    """The audit with these suspect rows, and the suspects that any of them has."""
    held = sorted({number for entry in left for number in entry.spans})
    places: Mapping[int, int] = {number: place for place, number in enumerate(held)}
    rows = tuple(replace(entry, spans=tuple(places[number] for number in entry.spans)) for entry in left)
    spans = tuple(audit.spans[number] for number in held)
    if spans:
        return replace(audit, spans=spans, rows=rows)
    return replace(audit, spans=(), rows=rows, off_target=(), alike_rows=())  # these are of the suspects
