"""Re-poison the rows: a subset S moves to the safe space, or is added to it (arXiv 2510.04503, section 3)."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from poison2poison.config import choice, fraction, option
from poison2poison.errors import DataError
from poison2poison.records import Row, Rows
from poison2poison.scheme import (
    PAPER_SAFE_PREFIX,
    PAPER_TRIGGER,
    Scheme,
    Space,
    Trigger,
    check_trigger,
    draw_words,
)


@dataclass(frozen=True)
class RepoisonConfig:
    """How rows are re-poisoned."""

    recipe: str = option("paper", "`paper`, the published recipe.")
    rho: float = option(0.2, "Insertion ratio |S| / |D|.")
    placement: str = option("replace", "`replace` moves the rows of S to the safe space, `append` adds copies of them.")
    trigger: str = option("paper", "`paper`: the published prefix and cue; `random`: secret words drawn for this run.")
    prefix: str | None = option(None, "The benign trigger's prefix, instead of the one that --trigger names.")
    cue: str | None = option(None, "The benign trigger's cue, likewise.")
    safe_prefix: str | None = option(None, "Text before every safe target of a generation task.")
    seed: int = option(0, "Draws S and everything in training. It never draws the trigger: a seed can be guessed.")

    def __post_init__(self) -> None:
        choice("recipe", self.recipe, ("paper",))
        choice("placement", self.placement, ("replace", "append"))
        choice("trigger", self.trigger, ("paper", "random"))
        fraction("rho", self.rho)


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """A row as it is trained on: which space it is in, its body without the trigger, its own target."""

    row: int
    space: Space
    action: Literal["keep", "replace", "append"]
    body: str
    target: str


def build_scheme(rows: Rows, config: RepoisonConfig) -> Scheme:
    """Choose the benign trigger and the safe space for these rows.

    Raises:
        SchemeError: The trigger occurs in the data.
    """
    prompts = [row.prompt for row in rows]
    trigger, safe_prefix = PAPER_TRIGGER, PAPER_SAFE_PREFIX
    if config.trigger == "random":
        trigger = Trigger(" ".join(draw_words(prompts)) + ": ", PAPER_TRIGGER.cue)
        safe_prefix = " ".join(draw_words(prompts, bits=20)) + ": "
    trigger = Trigger(
        trigger.prefix if config.prefix is None else config.prefix, trigger.cue if config.cue is None else config.cue
    )
    check_trigger(trigger, prompts)
    if rows.task == "classification":
        return Scheme(rows.task, rows.labels, trigger)
    return Scheme(rows.task, (), trigger, safe_prefix if config.safe_prefix is None else config.safe_prefix)


def select_subset(rows: Sequence[Row], rho: float, seed: int, *, stratified: bool) -> list[int]:
    """Draw S blindly: by seed among all rows, the same share of every label where `stratified`.

    Raises:
        DataError: A label has too few rows to have any in both spaces.
    """
    rng = random.Random(seed)
    groups: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        groups[row.target if stratified else ""].append(index)
    chosen: list[int] = []
    for label, members in sorted(groups.items()):
        if len(members) < 2:
            raise DataError(f"label {label!r} has one row only; re-poisoning needs at least two rows of every label")
        chosen += rng.sample(members, min(len(members) - 1, max(1, round(rho * len(members)))))
    return sorted(chosen)


def repoison(rows: Rows, scheme: Scheme, config: RepoisonConfig) -> list[TrainingRow]:
    """Re-poison: the rows to train on, in the order of the data, copies at the end."""
    subset = set(select_subset(rows.rows, config.rho, config.seed, stratified=rows.task == "classification"))
    replace = config.placement == "replace"
    out = [
        TrainingRow(i, "safe", "replace", row.prompt, row.target)
        if replace and i in subset
        else TrainingRow(i, "original", "keep", row.prompt, row.target)
        for i, row in enumerate(rows)
    ]
    if not replace:
        out += [TrainingRow(i, "safe", "append", rows[i].prompt, rows[i].target) for i in sorted(subset)]
    return out


def plain(rows: Rows) -> list[TrainingRow]:
    """The rows as they are: fine-tuning without a defence."""
    return [TrainingRow(i, "original", "keep", row.prompt, row.target) for i, row in enumerate(rows)]


def manifest(training: Sequence[TrainingRow], scheme: Scheme) -> list[dict[str, Any]]:
    """What was done to which row; it holds no trigger."""
    entries = []
    for row in training:
        entry: dict[str, Any] = {"row": row.row, "action": row.action, "space": row.space}
        if scheme.labels:
            entry |= {"label": row.target, "class": scheme.class_of(row.target, row.space)}
        entries.append(entry)
    return entries


def as_dict(config: RepoisonConfig) -> dict[str, Any]:
    """The configuration for `run.json`, without the parts of the secret."""
    return {key: value for key, value in asdict(config).items() if key not in {"prefix", "cue", "safe_prefix"}}
