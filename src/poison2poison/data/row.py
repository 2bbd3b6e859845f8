"""What a row is: a prompt, its target, and the turns of a chat around them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from poison2poison.data.records import Place
from poison2poison.types import Role, Task

FINGERPRINT = re.compile(r"[0-9a-f]{64}")
"""How `Row.fingerprint` is written."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn of a chat."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Row:
    """One training example. It carries no flag that says whether it is poisoned: no defence can see the truth.

    Attributes:
        prompt: The last user turn, which the benign trigger goes into.
        target: The answer; for classification the label's name.
        before: System and earlier turns.
        after: Turns between the last user turn and the answer: calls of tools, and what these gave.
    """

    prompt: str
    target: str
    before: tuple[Turn, ...] = ()
    after: tuple[Turn, ...] = ()

    @property
    def text(self) -> str:
        """All that a model reads before it answers."""
        return all_text(self.before, self.prompt, self.after)

    @property
    def fingerprint(self) -> str:
        """Sha-256 of prompt, target and turns: the row is known by it wherever it stands.

        It has no key, unlike what is hashed of a scheme: rows are the user's own and no secret of a run, and a record
        of accepted rows must say the same on every machine that has them.
        """
        return hashlib.sha256(_content(self)).hexdigest()


def all_text(before: Sequence[Turn], prompt: str, after: Sequence[Turn]) -> str:
    """The contents of all turns before an answer, in their order."""
    if not before and not after:
        return prompt
    return "\n\n".join([*(turn.content for turn in before), prompt, *(turn.content for turn in after)])


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
        notes: What was done in reading: fields used and ignored, what was left out.
        places: Where each row stands; empty for rows that were not read so.
    """

    rows: tuple[Row, ...]
    task: Task
    labels: tuple[str, ...]
    layout: str
    source: str
    sha256: str
    notes: tuple[str, ...] = field(default=(), compare=False)
    places: tuple[Place, ...] = field(default=(), compare=False)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def with_rows(self, rows: Sequence[Row]) -> Rows:
        """The same kind of data with other rows."""
        return replace(self, rows=tuple(rows), sha256=hash_rows(rows), places=())


def hash_rows(rows: Sequence[Row]) -> str:
    """Sha-256 over prompts, targets and the turns around them, in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(_content(row))
    return digest.hexdigest()


def _content(row: Row) -> bytes:
    """All that a row says, as hashes take it."""
    content: list[object] = [row.prompt, row.target]
    if row.before or row.after:
        content += [[[turn.role, turn.content] for turn in turns] for turns in (row.before, row.after)]
    return json.dumps(content).encode()
