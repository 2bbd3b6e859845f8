"""A folder of re-poisoned rows, between `p2p repoison` and a training: ours, or any other after `p2p export`.

rows.jsonl       the rows with what was done to them; body and target are as yet without trigger and safe label
scheme.json      the scheme: a secret, named in .gitignore as the rows are
manifest.jsonl   what was done to which row
about.json       where the rows come from, and the recipe
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from poison2poison.data import Turn
from poison2poison.errors import DataError
from poison2poison.files import keep_from_git, locked, refuse_taken, whole_folder, write_json, write_lines
from poison2poison.recipe.manifest import TrainingRow, manifest
from poison2poison.recipe.scheme import Scheme
from poison2poison.types import Space

FIELDS = ("row", "space", "action", "body", "target")
"""Of a training row, which a file must have; turns are there for chats."""


def write_repoisoned(out: Path, rows: Sequence[TrainingRow], scheme: Scheme, about: dict[str, Any]) -> None:
    """Write re-poisoned rows for `train`, or for `export` to another trainer.

    Raises:
        OutputError: The folder holds something.
    """
    refuse_taken(out)
    with locked(out), whole_folder(out) as folder:
        write_lines(folder / "rows.jsonl", map(asdict, rows), private=True)
        scheme.save(folder / "scheme.json")
        keep_from_git(folder, "scheme.json", "rows.jsonl")  # the rows tell which of them hold the trigger
        write_lines(folder / "manifest.jsonl", manifest(rows, scheme))
        write_json(folder / "about.json", about)


def read_repoisoned(folder: Path) -> tuple[list[TrainingRow], Scheme, dict[str, Any]]:
    """Read what `write_repoisoned` wrote.

    Raises:
        DataError: The rows are missing or broken.
        SchemeError: The scheme is missing, broken or of a newer version.
    """
    scheme = Scheme.load(folder / "scheme.json")
    path = folder / "rows.jsonl"
    try:
        # Not `splitlines`: rows may hold the other ends of lines that Unicode knows.
        lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
        rows = [_row(json.loads(line), scheme, f"{path}, line {number}") for number, line in enumerate(lines, 1)]
        about = dict(json.loads((folder / "about.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not re-poisoned rows ({error})") from None
    return rows, scheme, about


def _row(fields: dict[str, Any], scheme: Scheme, where: str) -> TrainingRow:
    """A line of the file; `where` names it in messages.

    Raises:
        DataError: A hand has broken it.
    """
    turns = [[Turn(**turn) for turn in fields.get(name, ())] for name in ("before", "after")]
    row = TrainingRow(*(fields[name] for name in FIELDS), *map(tuple, turns))
    for name, value in {"body": row.body, "target": row.target}.items():
        if not isinstance(value, str):
            raise DataError(f"{where}: {name} is {value!r}, and not a text")
    if row.space not in get_args(Space):
        raise DataError(f"{where}: space {row.space!r} is not one of {', '.join(get_args(Space))}")
    if scheme.labels and row.target not in scheme.labels:
        raise DataError(f"{where}: label {row.target!r} is not in the scheme")
    return row
