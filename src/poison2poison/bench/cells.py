"""The cells of a benchmark, and what stands in their folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

from poison2poison.bench.config import NO_ATTACK, AttackEntry, BenchConfig, TaskEntry, slug
from poison2poison.data import DataConfig
from poison2poison.errors import OutputError
from poison2poison.files import write_json

SCHEMA = 1
OF_FOLDER = "of its folder"
"""The attack's name where the task is a folder of `p2p attack`."""


@dataclass(frozen=True)
class Cell:
    """One place of the grid: rows, a model and an attack, on which all defences are measured.

    Attributes:
        task, attack, rate, seed: Which; a cell without an attack has rate 0.
        settings: Of the training, with the model's name.
        recipe, audit: Settings of the defences.
        sizes: Rows of a reference task's splits.
        floor: Whether a model is trained without the attack.
    """

    task: TaskEntry
    attack: AttackEntry
    rate: float
    seed: int
    settings: dict[str, Any]
    recipe: dict[str, Any]
    audit: dict[str, Any]
    sizes: dict[str, int]
    floor: bool

    @property
    def model(self) -> str:
        """The base model."""
        return str(self.settings["model"])

    @property
    def key(self) -> str:
        """The folder's name."""
        attack = slug(self.attack.name) + (f"-{self.rate:g}" if self.rate else "")
        return f"{slug(self.task.name)}--{slug(self.model)}--{attack}--{self.seed}"

    @property
    def about(self) -> dict[str, Any]:
        """The place in the grid, for tables."""
        names = {"task": self.task.name, "model": self.model, "attack": self.attack.name}
        return {**names, "rate": self.rate, "seed": self.seed}

    def as_dict(self) -> dict[str, Any]:
        """All that the cell's figures depend on, but the defences; plain JSON."""
        out: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        return out

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Cell:
        """The cell of `as_dict`."""
        task = TaskEntry(**{**content["task"], "data": DataConfig(**content["task"]["data"])})
        return cls(**{**content, "task": task, "attack": AttackEntry(**content["attack"])})


class Suspects(TypedDict):
    """What an audit suspects, held against the truth; a share of nothing is None."""

    suspects: int
    poisoned: int
    precision: float | None
    recall: float | None


class State(TypedDict):
    """`cell.json`: what became of a cell.

    `failed` has the reasons by the arm; `cell` instead of an arm where no defence came to its turn. `inapplicable` has
    those of defences that say nothing of such rows. `suspects` says how many rows the audit suspects and how many of
    these are poisoned; None without both. `seconds` is None where a cell was interrupted and went on.
    """

    schema: int
    about: dict[str, Any]
    settings: dict[str, Any]
    defences: list[str]
    failed: dict[str, str]
    inapplicable: dict[str, str]
    suspects: Suspects | None
    seconds: float | None


def cells_of(config: BenchConfig) -> list[Cell]:
    """All cells, in the order of the file: seeds outermost, so that one seed of everything comes first."""
    return [
        Cell(task, attack, rate, seed, {**config.training, **model, **task.training}, config.recipe, config.audit,
             config.sizes, config.floor)
        for seed in config.seeds
        for task in config.tasks
        for model in config.models if task.models is None or model["model"] in task.models
        for attack, rate in _attacks(task, config)
    ]  # fmt: skip


def _attacks(task: TaskEntry, config: BenchConfig) -> list[tuple[AttackEntry, float]]:
    """The attacks on a task with their rates."""
    if task.folder:
        return [(AttackEntry(name=OF_FOLDER), 0.0)]
    on_it = [attack for attack in config.attacks if attack.tasks is None or task.name in attack.tasks]
    rates = {attack.name: [0.0] if attack.kind == NO_ATTACK else attack.rates or config.rates for attack in on_it}
    return [(attack, rate) for attack in on_it for rate in rates[attack.name]]


def read_state(folder: Path) -> State | None:
    """What became of the cell of a folder; None where it was not finished.

    Raises:
        OutputError: The file is broken, or of a newer version.
    """
    path = folder / "cell.json"
    if not path.exists():
        return None
    try:
        state: State = json.loads(path.read_text(encoding="utf-8"))
        if state["schema"] != SCHEMA:
            raise OutputError(f"{path}: schema {state['schema']}, but this version reads {SCHEMA}; give another --out")
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{path}: is no cell of a benchmark ({error}); give another --out, or delete it") from None
    return state


def write_state(folder: Path, state: State) -> None:
    """Write it, whole or not at all."""
    write_json(folder / "cell.json", {**state})
