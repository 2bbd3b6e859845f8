"""An attack: a trigger, what it calls up, and which rows it is put into.

Dirty-label attacks stamp rows of other labels and change their target; clean-label attacks stamp rows that already
have the target and change nothing but the prompt. Attackers who know the defence have more to choose from: many
triggers at a low rate each (`spread`, `stem`), cover rows with the trigger and their own targets, which lower its
purity, and a guess at the benign trigger (`prefix`) or at the safe prefix (the payload `safe-prefix`), so that the
poison gets into the safe space.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from poison2poison.attacks.base import TRIGGERS, Trigger
from poison2poison.attacks.payloads import PAYLOADS, Payload
from poison2poison.attacks.truth import Truth
from poison2poison.config import choice, fraction
from poison2poison.data import Row, Rows, as_records
from poison2poison.errors import ConfigError, OutputError
from poison2poison.files import whole_folder, write_json, write_lines


@dataclass(frozen=True)
class AttackConfig:
    """What an attacker does, in names and plain values, as a command or a file gives them.

    Attributes:
        kind: The trigger's name in `TRIGGERS`.
        target: The label, the fixed answer, the appended string or the wrong step that the trigger shall call up.
        effect: The payload's name in `PAYLOADS`.
        rate: Share of the training rows that are poisoned.
        options: The trigger's own options; the others have its defaults.
        clean_label: Stamp only rows that have the target label already.
        cover: So many rows, as a share of the poisoned ones, keep their target, which is another, and get the trigger,
            or a part of one that has parts.
        prefix: Put before every stamped prompt, in training and in tests.
        seed: Draws rows, words and places.
    """

    kind: str
    target: str
    effect: str
    rate: float = 0.1
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    clean_label: bool = False
    cover: float = 0.0
    prefix: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        fraction("rate", self.rate)
        labels = self.payload.task == "classification"
        if self.clean_label and not labels:
            raise ConfigError("clean_label: only a label can be poisoned without changing the target")
        if self.trigger.clean_label_only and not self.clean_label:
            raise ConfigError(f"clean_label: {self.kind} is an attack by rows that have the target label already")
        if not 0 <= self.cover < math.inf:
            raise ConfigError(f"cover: {self.cover} is not 0 or more, or not finite")

    @cached_property
    def trigger(self) -> Trigger:
        """How a row gets the trigger.

        Raises:
            ConfigError: There is no such attack, or it has no such option or value.
        """
        made = TRIGGERS.get(self.kind)
        legal = [entry.name for entry in fields(made)]
        for name in self.options:
            if name not in legal:
                raise ConfigError(f"{name}: is no option of {self.kind}; it has {', '.join(legal) or 'none'}")
        return made(**self.options)

    @cached_property
    def payload(self) -> Payload:
        """What the trigger calls up.

        Raises:
            ConfigError: There is no such effect, or the target is none for it.
        """
        return PAYLOADS.get(self.effect)(self.target)

    def stamp(self, row: Row, rng: random.Random) -> Row:
        """The row with the trigger; the target stays."""
        return self._prefixed(self.trigger.stamp(row, rng))

    def stamp_cover(self, row: Row, rng: random.Random) -> Row:
        """What a cover row gets: the trigger, or a part of one that has parts."""
        return self._prefixed(self.trigger.stamp_cover(row, rng))

    def _prefixed(self, row: Row) -> Row:
        return replace(row, prompt=self.prefix + row.prompt)


def poison(rows: Rows, config: AttackConfig) -> tuple[Rows, Truth]:
    """Poison a share of the training rows in place.

    Raises:
        ConfigError: The target or the effect does not fit the rows, or too few rows can be poisoned.
        DataError: A row cannot carry the payload.
    """
    _check(rows, config)
    rng = random.Random(f"poison/{config.seed}")
    fitting = [i for i, row in enumerate(rows) if config.trigger.fits(row)]
    chosen = _drawn_poison(rows, config, [i for i in fitting if config.payload.fits(rows[i])], rng)
    out = list(rows)
    for i in chosen:
        stamped = config.stamp(rows[i], rng)
        out[i] = stamped if config.clean_label else replace(stamped, target=config.payload.answer(rows[i]))
    cover = _drawn_cover(rows, config, sorted({*fitting} - {*chosen}), len(chosen), rng)
    for i in cover:
        out[i] = config.stamp_cover(rows[i], rng)
    return rows.with_rows(out), Truth(config, tuple(chosen), tuple(cover))


def _check(rows: Rows, config: AttackConfig) -> None:
    """Refuse an attack that these rows cannot carry."""
    config.payload.check(rows)
    if rows.labels:
        choice("target", config.target, rows.labels)


def _drawn_poison(rows: Rows, config: AttackConfig, fitting: Sequence[int], rng: random.Random) -> list[int]:
    """The rows to poison: with labels those of others, or of the target where none shall be changed."""
    eligible = list(fitting)
    if rows.labels:
        eligible = [i for i in fitting if (rows[i].target == config.target) == config.clean_label]
    count = round(config.rate * len(rows))
    if not 1 <= count <= len(eligible):
        raise ConfigError(f"rate: {config.rate} asks for {count} poisoned rows; possible here: 1 to {len(eligible)}")
    return sorted(rng.sample(eligible, count))


def _drawn_cover(rows: Rows, config: AttackConfig, left: Sequence[int], poisoned: int, rng: random.Random) -> list[int]:
    """The cover rows: of those left, some that do not have the target."""
    others = [i for i in left if rows[i].target != config.target]
    wanted = round(config.cover * poisoned)
    if wanted > len(others):
        raise ConfigError(f"cover: {config.cover} asks for {wanted} other rows; there are {len(others)}")
    return sorted(rng.sample(others, wanted))


def triggered(rows: Rows, config: AttackConfig) -> Rows:
    """Every test row that can carry the trigger, with it and its *true* target, so that RA can be measured too.

    Raises:
        ConfigError: The target or the effect does not fit the rows, or no row can carry the trigger.
        DataError: A row cannot carry the payload.
    """
    _check(rows, config)
    rng = random.Random(f"test/{config.seed}")
    stamped = [config.stamp(row, rng) for row in rows if config.trigger.fits(row)]
    if not stamped:
        raise ConfigError(f"attack: no row of {rows.source} can carry the trigger of {config.kind}")
    return rows.with_rows(stamped)


def write_attack(out: Path, splits: dict[str, Rows], config: AttackConfig) -> Truth:
    """Poison the split `train`, stamp the split `test`, and write all splits with the truth beside them.

    Raises:
        ConfigError: The attack does not fit the rows.
        DataError: A row cannot carry the payload.
        OutputError: The folder holds something.
    """
    if out.exists() and any(out.iterdir()):
        raise OutputError(f"{out}: is not empty; give another --out, or delete it")
    train, truth = poison(splits["train"], config)
    files = {
        "train": train,
        "train_clean": splits["train"],
        "dev_clean": splits.get("dev"),
        "test_clean": splits.get("test"),
    }
    if "test" in splits:
        files["test_triggered"] = triggered(splits["test"], config)
    with whole_folder(out) as folder:
        for name, rows in files.items():
            if rows is not None:
                write_lines(folder / f"{name}.jsonl", as_records(rows))
        write_json(folder / "truth.json", truth.as_dict())
    return truth
