"""What only the evaluation may know: the attack, its target, and the rows that it changed (`truth.json`).

Schema 2 has the options of the trigger under `options`. Files of schema 1, and of published sets, name the target as
`target` with `effect`, or as `target_label`; they are read as well.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poison2poison.attacks.payloads import PAYLOADS, Payload
from poison2poison.data import Rows
from poison2poison.errors import DataError

if TYPE_CHECKING:
    from poison2poison.attacks.attack import AttackConfig

SCHEMA = 2


@dataclass(frozen=True)
class Target:
    """What the attacker wants: a label, text or step, and the name of the payload in `PAYLOADS`."""

    text: str
    effect: str

    @cached_property
    def payload(self) -> Payload:
        """How an answer is recognised to be the target.

        Raises:
            ConfigError: There is no such effect, or the text is none for it.
        """
        return PAYLOADS.get(self.effect)(self.text)


@dataclass(frozen=True)
class Truth:
    """The attack, and the indices (from 0) of the rows that it changed.

    Rows with the target are `poisoned_rows`; those that keep theirs, with the trigger alone, are `cover_rows`.
    """

    config: AttackConfig
    poisoned_rows: tuple[int, ...]
    cover_rows: tuple[int, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The content of `truth.json`."""
        c = self.config
        options = {name: str(v) if isinstance(v, Path) else v for name, v in asdict(c.trigger).items()}
        return {
            "schema": SCHEMA,
            "attack": c.kind,
            "options": options,
            "effect": c.effect,
            "target": c.target,
            "rate": c.rate,
            "clean_label": c.clean_label,
            "cover": c.cover,
            "prefix": c.prefix,
            "seed": c.seed,
            "poisoned_rows": list(self.poisoned_rows),
            "cover_rows": list(self.cover_rows),
        }


def read_truth(path: Path) -> dict[str, Any]:
    """The content of a `truth.json`.

    Raises:
        DataError: The file is missing, broken or of a newer version.
    """
    try:
        truth = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(truth, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a truth file ({error})") from None
    if truth.get("schema", 1) not in range(1, SCHEMA + 1):
        raise DataError(f"{path}: has schema {truth['schema']!r}; this version reads 1 to {SCHEMA}")
    return truth


def read_target(path: Path) -> Target | None:
    """The attacker's target from a `truth.json`; None where it names none.

    Raises:
        DataError: The file is broken.
    """
    truth = read_truth(path)
    if "target_label" in truth:
        return Target(str(truth["target_label"]), "label")
    if "target" in truth and "effect" not in truth:
        raise DataError(f"{path}: names a target without its effect ({', '.join(PAYLOADS.names())})")
    return Target(str(truth["target"]), str(truth["effect"])) if "target" in truth else None


def without_poison(rows: Rows, truth: dict[str, Any], where: Path) -> Rows:
    """The same rows without the attack, for the floor.

    Raises:
        DataError: The truth names no poisoned rows, or rows that the data does not have.
    """
    poisoned = _rows_named(rows, "poisoned_rows", truth.get("poisoned_rows"), where)
    cover = _rows_named(rows, "cover_rows", truth.get("cover_rows", []), where)
    gone = {*poisoned, *cover}
    return rows.with_rows([row for i, row in enumerate(rows) if i not in gone])


def _rows_named(rows: Rows, name: str, listed: Any, where: Path) -> Sequence[int]:
    if not isinstance(listed, list) or not all(isinstance(i, int) and 0 <= i < len(rows) for i in listed):
        raise DataError(f"{where}: {name!r} must list rows of {rows.source}, 0 to {len(rows) - 1}")
    return listed
