"""Records as they stand in files: fields by name, and where each record stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

Record = Mapping[str, Any]
"""A record's fields by name."""


class Place(NamedTuple):
    """Where a record stands: words that a number completes ("train.jsonl, line "), and that number.

    Where these number records, `begins` is the line on which the record begins, if that is known.
    """

    where: str
    number: int
    begins: int | None = None

    def __str__(self) -> str:
        return f"{self.where}{self.number}"

    @property
    def source(self) -> str:
        """The file or hub dataset."""
        return self.where.rpartition(", ")[0]

    @property
    def line(self) -> int | None:
        """The line of a file of text, the first of a record that has several; None in files of another kind."""
        return self.number if self.where.endswith(", line ") else self.begins


class Located(NamedTuple):
    """A record and where it stands."""

    place: Place
    record: Record
