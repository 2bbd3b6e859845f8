"""Accepted rows, a JSON object a line, by `p2p audit --accept` or by hand:

{"row": fingerprint, "finding": what was found there, "reason": why it may stay, "date": "2026-01-31"}

Rows are known by `Row.fingerprint`, so their order does not matter. The finding is for the reader alone: its words
change with the other rows. A row is accepted as often as it stands there: another copy of it is new.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import date
from pathlib import Path

from poison2poison.data import FINGERPRINT, Rows
from poison2poison.errors import told
from poison2poison.files import read_lines, write_lines
from poison2poison.gate.findings import GateFinding


@dataclass(frozen=True)
class Accepted:
    """One accepted row.

    Raises:
        ValueError: A field is not what it must be, by its name.
    """

    row: str
    finding: str
    reason: str
    date: str

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"{entry.name}: {told(value)} is no text")
        if not FINGERPRINT.fullmatch(self.row):
            raise ValueError(f"row: {told(self.row)} is no fingerprint of 64 hexadecimal digits")
        try:
            date.fromisoformat(self.date)
        except ValueError:
            raise ValueError(f"date: {told(self.date)} is no day, such as 2026-01-31") from None


def read_baseline(path: Path) -> list[Accepted]:
    """Read accepted rows.

    Raises:
        DataError: The file is missing or broken, by line and field.
    """
    return [entry for _, entry in read_lines(path, Accepted)]


def accept(path: Path, before: Sequence[Accepted], findings: Sequence[GateFinding], rows: Rows, reason: str) -> int:
    """Add the open rows of these findings to a baseline.

    Returns:
        How many they are.

    Raises:
        OutputError: It cannot be written.
    """
    today = date.today().isoformat()
    added = [Accepted(rows[i].fingerprint, one.title, reason, today) for one in findings for i in one.open]
    write_lines(path, map(asdict, [*before, *added]))
    return len(added)
