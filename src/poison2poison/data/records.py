"""Records as they stand in files: fields by name, and where each record stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

Record = Mapping[str, Any]
"""A record's fields by name."""


class Place(NamedTuple):
    """Where a record stands: words that a number completes ("train.jsonl, line "), and that number."""

    where: str
    number: int

    def __str__(self) -> str:
        return f"{self.where}{self.number}"


class Located(NamedTuple):
    """A record and where it stands."""

    place: Place
    record: Record
