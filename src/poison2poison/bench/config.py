"""The YAML file of a benchmark: its keys, and what each may hold."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from poison2poison.config import AuditConfig, TrainConfig, a_seed, at_least, choice, fraction, option, read_yaml
from poison2poison.data import DataConfig
from poison2poison.errors import ConfigError, told
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.reference import SPLIT_SIZES, TASKS

NO_ATTACK = "none"
"""The attack of a cell whose rows are left as they are."""
OF_GRID = {"training": ("model", "seed"), "recipe": ("seed", "prefix", "cue", "safe_prefix"), "audit": ()}
"""Settings that the grid gives; a secret would stand in `bench.json`."""
Built = TypeVar("Built")


def table(explained: str) -> Any:
    """A field that is a table of settings, empty by default."""
    return field(default_factory=dict, metadata={"help": explained})


@dataclass(frozen=True)
class TaskEntry:
    """Rows to attack and to defend on: a reference task, files, or a folder of `p2p attack`."""

    name: str = option("", "What tables call it. [default: the reference task, or the name of the folder or file]")
    folder: str | None = option(None, "A folder that `p2p attack` wrote: its attack is the only one there.")
    train: str | None = option(None, "Training rows, as `p2p defend` takes them.")
    test: str | None = option(None, "Clean test rows, with `train`.")
    dev: str | None = option(None, "Clean rows on which the best epoch is chosen, with `train`.")
    data: DataConfig = option(DataConfig(), "How the files are read.")
    rows: int | None = option(None, "Training rows of files or a folder that are used, the first ones. [default: all]")
    held_out: int | None = option(None, "Dev and test rows likewise, of each set. [default: all]")
    kept: float | None = option(None, "Share of a folder's poisoned rows that stay there. [default: all]")
    models: list[str] | None = option(None, "Names of the models that it is for. [default: all]")
    training: dict[str, Any] = table("Settings of `p2p train` on it, beside those of the grid.")

    def __post_init__(self) -> None:
        if self.folder and (self.train or self.test or self.dev):
            raise ConfigError("folder: holds all sets; leave train, test and dev out")
        if bool(self.train) != bool(self.test):
            raise ConfigError("train and test: give both, or a folder, or the name of a reference task")
        if not self.folder and not self.train:
            choice("name (of a reference task)", self.name, tuple(TASKS))
        for name in ("rows", "held_out"):
            count = getattr(self, name)
            if count is not None:
                at_least(name, count, 1)
                if not self.folder and not self.train:
                    raise ConfigError(f"{name}: are those of files or a folder; give sizes for a reference task")
        if self.kept is not None:
            fraction("kept", self.kept)
            if not self.folder:
                raise ConfigError("kept: is of a folder's poisoned rows; give rates instead")
        source = self.folder or self.train
        if not self.name and source:
            object.__setattr__(self, "name", Path(source).resolve().stem if self.train else Path(source).resolve().name)


@dataclass(frozen=True)
class AttackEntry:
    """An attack, as `p2p attack` makes it."""

    kind: str = option("badnets", "The attack, or `none` to measure without one.")
    name: str = option("", "What tables call it. [default: the kind]")
    effect: str | None = option(None, "What the trigger calls up. [default: `label`, or `fixed` for texts]")
    target: str | None = option(None, "Label or text that it calls up. [default: the last label; the effect's own]")
    options: dict[str, Any] = table("The attack's own options.")
    clean_label: bool = option(False, "Stamp only rows that have the target label already.")
    cover: float = option(0.0, "Rows with the trigger that keep their target, per poisoned row.")
    prefix: str = option("", "Put before stamped prompts: a guess at the benign trigger.")
    tasks: list[str] | None = option(None, "Names of the tasks that it is for. [default: all]")
    rates: list[float] | None = option(None, "Its own shares of poisoned rows. [default: those of the grid]")

    def __post_init__(self) -> None:
        from poison2poison.attacks import PAYLOADS, TRIGGERS

        choice("kind", self.kind, (NO_ATTACK, *TRIGGERS.names()))
        for rate in self.rates or ():
            fraction("rates", rate)
        object.__setattr__(self, "name", self.name or self.kind)
        if self.effect is not None:
            choice("effect", self.effect, PAYLOADS.names())
        if self.kind == NO_ATTACK:
            if self.options or self.effect or self.target:
                raise ConfigError("kind: `none` has no options, effect or target; leave them out")
            return
        trigger = TRIGGERS.get(self.kind)
        object.__setattr__(self, "options", vars(_built(trigger, self.options, "options")) if self.options else {})


@dataclass(frozen=True)
class BenchConfig:
    """A grid: every task with every model, attack, rate and seed is a cell, in which all defences are measured."""

    tasks: tuple[TaskEntry, ...] = option((), "Reference tasks by name, folders of `p2p attack`, or tables; see below.")
    models: tuple[dict[str, Any], ...] = option(
        ({"model": "reference"},), "Base models; a table of training settings where one model needs its own."
    )
    attacks: tuple[AttackEntry, ...] = option(
        (AttackEntry(),), "Attacks by name, or tables; `none` measures without an attack."
    )
    rates: tuple[float, ...] = option((0.1,), "Shares of the training rows that are poisoned.")
    defences: tuple[str, ...] = option(
        ("undefended", "hardened"),
        "Defences by name, as for `p2p defend --compare`; `all` for every one; `hardened:rho=0.2` with options.",
    )
    seeds: tuple[int, ...] = option((0,), "Of the reference rows, the attack, the training and the benign trigger.")
    floor: bool = option(True, "Also train without the attack, for the floor.")
    sizes: dict[str, int] = table("Rows of a reference task's `train`, `dev` and `test`.")
    training: dict[str, Any] = table("Settings of `p2p train`, but model and seed.")
    recipe: dict[str, Any] = table("Settings of `p2p repoison`, but seed and secrets.")
    audit: dict[str, Any] = table("Settings of `p2p audit`.")

    def __post_init__(self) -> None:
        from poison2poison.defences import DEFENCES
        from poison2poison.defences.base import chosen

        for name in ("tasks", "models", "attacks", "rates", "defences", "seeds"):
            if not getattr(self, name):
                raise ConfigError(f"{name}: is empty; give at least one")
        if self.defences == ("all",):
            undefended_first = sorted(DEFENCES.names(), key=lambda name: name != "undefended")
            object.__setattr__(self, "defences", tuple(undefended_first))
        for given in self.defences:
            choice("defences", given.partition(":")[0], DEFENCES.names())
        arms = [chosen(given, RepoisonConfig()).arm for given in self.defences]
        for rate in self.rates:
            fraction("rates", rate)
        for seed in self.seeds:
            a_seed(seed)
        for split, size in self.sizes.items():
            choice("sizes", split, tuple(SPLIT_SIZES))
            at_least(f"sizes: {split}", size, 1)
        self._check_names(arms)
        for model in self.models:
            if not isinstance(model.get("model"), str):
                raise ConfigError("models: a table needs the key `model`")
            _built(TrainConfig, self.training | model, "training", ("seed",))
        _built(TrainConfig, self.training, "training", OF_GRID["training"])
        _built(RepoisonConfig, self.recipe, "recipe", OF_GRID["recipe"])
        _built(AuditConfig, self.audit, "audit")

    def _check_names(self, arms: Sequence[str]) -> None:
        """Refuse what would stand twice in a table, and attacks on tasks that there are not."""
        tasks = [task.name for task in self.tasks]
        named: dict[str, Sequence[Any]] = {
            "tasks": tasks,
            "attacks": [attack.name for attack in self.attacks],
            "models": [str(model.get("model")) for model in self.models],
            "rates": self.rates,
            "seeds": self.seeds,
            "defences": arms,
        }
        for key, names in named.items():
            if twice := [name for name in names if names.count(name) > 1]:
                raise ConfigError(f"{key}: {twice[0]} is there twice; give each a name of its own, or leave one out")
        for attack in self.attacks:
            for task in attack.tasks or ():
                choice(f"attacks: {attack.name}: tasks", task, tasks)
        for entry in self.tasks:
            _built(TrainConfig, entry.training, f"tasks: {entry.name}: training", OF_GRID["training"])
            for model in entry.models or ():
                choice(f"tasks: {entry.name}: models", model, named["models"])


def read_config(path: Path) -> BenchConfig:
    """Read a benchmark's file; paths in it are taken from where the command runs.

    Raises:
        ConfigError: It is missing or broken, or has an unknown key or an illegal value; with file, key, legal values.
    """
    values = read_yaml(path, [entry.name for entry in fields(BenchConfig)])
    try:
        return _built(BenchConfig, values, "")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


# --- YAML values as configurations ------------------------------------------------------------------------------------


def _built(kind: type[Built], values: Mapping[str, Any], where: str, hidden: Sequence[str] = ()) -> Built:
    """A configuration of these values, each held against its field's type.

    Args:
        kind: A dataclass.
        values: By the names of its fields.
        where: The key that they stand under.
        hidden: Fields that cannot be given here.
    """
    hints = get_type_hints(kind)
    legal = [entry.name for entry in fields(kind) if entry.name not in hidden]  # type: ignore[arg-type]
    under = f"{where}: " if where else ""
    given = {}
    for name, value in values.items():
        if name not in legal:
            raise ConfigError(f"{under}unknown key {told(name)}; legal here: {', '.join(sorted(legal)) or 'none'}")
        given[name] = _typed(value, hints[name], f"{under}{name}")
    try:
        return kind(**given)
    except ConfigError as error:
        raise ConfigError(f"{under}{error}") from None


def _typed(value: Any, hint: Any, where: str) -> Any:
    """The value as its field has it.

    Raises:
        ConfigError: It is of another type.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None and type(None) in parts:
            return None
        return _typed(value, next(part for part in parts if part is not type(None)), where)
    if origin in (list, tuple):
        items = value if isinstance(value, (list, tuple)) else [value]
        typed = [_typed(_entry(item, parts[0]), parts[0], where) for item in items]
        return tuple(typed) if origin is tuple else typed
    if isinstance(hint, type) and hasattr(hint, "__dataclass_fields__"):
        if isinstance(value, hint):
            return value
        return _built(hint, _table(value, where), where)
    if origin is dict:
        return {name: _typed(item, parts[1], f"{where}: {name}") for name, item in _table(value, where).items()}
    if origin is Literal or hint is str:
        return _of(str, value, where, "a text") if not isinstance(value, (int, float)) else _number_as_text(value)
    if hint is Path:
        return Path(_of(str, value, where, "a path"))
    if hint is float:
        return float(_of((int, float), value, where, "a number"))
    if hint in (int, bool):
        return _of(hint, value, where, "a whole number" if hint is int else "true or false")
    return value


def _number_as_text(value: float) -> str:
    """A label or a year, which YAML reads as a number."""
    return str(value)


def _of(kind: Any, value: Any, where: str, said: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{where}: {told(value)} is not {said}")
    return value


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: {told(value)} is not a table of `name: value`")
    return {str(name): item for name, item in value.items()}


def _entry(item: Any, kind: Any) -> Any:
    """An item of a list, where a name alone stands for a table."""
    if not isinstance(item, str):
        return item
    if kind is TaskEntry:
        return {"name": item} if item in TASKS else {"folder": item}
    if kind is AttackEntry:
        return {"kind": item}
    return {"model": item} if get_origin(kind) is dict else item


def slug(text: str) -> str:
    """A name as a part of a folder's."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "x"
