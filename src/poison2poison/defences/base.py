"""What a defence is: rows in, training rows and a scheme out; around that it may change training and inference.

How to add one: docs/how-to/add-a-defence.md.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from poison2poison.data import Rows
from poison2poison.errors import ConfigError, DataError
from poison2poison.features import Ints
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.recipe.manifest import TrainingRow, plain
from poison2poison.recipe.scheme import Scheme
from poison2poison.registry import Registry

if TYPE_CHECKING:
    from poison2poison.defences.context import Context
    from poison2poison.defences.shared import Shared
    from poison2poison.model.defended import DefendedModel

Need = Literal["audit", "labels", "embeddings", "training", "causal LM", "gradients"]


@dataclass(frozen=True)
class Prepared:
    """What a model is trained on.

    Attributes:
        rows: The training rows.
        scheme: Their scheme; without a trigger there is nothing to project.
        source: The rows that they were made of.
        about: How, for `run.json`.
    """

    rows: list[TrainingRow]
    scheme: Scheme
    source: Rows
    about: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def plain(cls, rows: Rows) -> Prepared:
        """Rows as they are, to fine-tune on without P2P."""
        return cls(plain(rows), Scheme(rows.task, rows.labels), rows)


Fit = Callable[[Prepared], dict[str, Any]]
"""Fine-tunes with the settings of the run, in the arm's folder; gives the content of `run.json`."""


class Defence:
    """A defence; as it stands here, none. It never sees which rows are poisoned.

    Its options are the fields of a dataclass, with the paper's values as defaults.

    Attributes:
        name: What it is called in tables, and in the registry in lower case with dashes.
        needs: What a defender must have who may have the rows alone.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[Need, ...]] = ()

    @classmethod
    def beside(cls, recipe: RepoisonConfig) -> Defence:
        """The defence as it is compared in a run of `recipe`."""
        return cls()

    def at(self, rho: float) -> Defence:
        """The same with another insertion ratio, as an arm of its own.

        Raises:
            ConfigError: It re-poisons no rows.
        """
        raise ConfigError(f"compare: {self.name} re-poisons no rows, and so has no rho; leave `@{rho:g}` out")

    @property
    def arm(self) -> str:
        """Its name in `results.json`, and that of its folder."""
        return key_of(self.name)

    def applies(self, rows: Rows) -> bool:
        """Whether the method says anything of such rows."""
        return True

    def prepare(self, shared: Shared) -> Prepared:
        """What is trained on, made of the untrusted rows. All defences of a run are asked before any is trained."""
        return Prepared.plain(shared.rows)

    def train(self, prepared: Prepared, fit: Fit) -> dict[str, Any]:
        """Fine-tune. Must give what `fit` gives, of a run that was interrupted or is done too."""
        return fit(prepared)

    def serve(self, model: DefendedModel) -> DefendedModel:
        """The model as it is measured, of the one that the arm's folder holds."""
        return model


class RowFilter(Defence, ABC):
    """A published defence that points at rows; those are dropped, and the others trained on as they are."""

    @abstractmethod
    def suspects(self, context: Context) -> Ints:
        """The rows that the method would drop: indices from 0, ascending."""

    def prepare(self, shared: Shared) -> Prepared:
        """See `Defence`. What is dropped stands in ARM.json, so that an interrupted run need not look for it again."""
        found = shared.kept(
            self.arm, dict(vars(self)), lambda: {"dropped_rows": self.suspects(shared.context).tolist()}
        )
        return Prepared.plain(without(shared.rows, found["dropped_rows"], self.arm))


def without(rows: Rows, gone: Collection[int], arm: str) -> Rows:
    """The rows but those.

    Raises:
        DataError: None is left, or none of a label.
    """
    dropped = set(gone)
    left = rows.with_rows([row for i, row in enumerate(rows) if i not in dropped])
    lost = {row.target for row in rows} - {row.target for row in left} if rows.labels else set()
    if lost or not len(left):
        what = f"label {min(lost)!r}" if lost else "the data"
        raise DataError(f"{arm}: the rows that it drops leave none of {what}; leave this defence out")
    return left


DEFENCES: Registry[type[Defence]] = Registry("compare", "poison2poison.defences")
"""The defences by their names in lower case with dashes."""

Kind = TypeVar("Kind", bound=type[Defence])


def key_of(name: str) -> str:
    """A name as it is written on the command line and as folders have it."""
    return name.casefold().replace(" ", "-")


def register(kind: Kind) -> Kind:
    """Make a defence known by its name.

    Raises:
        ConfigError: The name is taken.
    """
    DEFENCES.register(key_of(kind.name))(kind)
    return kind


def row_filters() -> dict[str, type[RowFilter]]:
    """The row filters among the defences, by the names that tables have."""
    known = map(DEFENCES.get, DEFENCES.names())
    return {kind.name: kind for kind in known if issubclass(kind, RowFilter)}


def named(name: str, recipe: RepoisonConfig) -> Defence:
    """The defence of a name as it is compared in a run of `recipe`; `hardened@0.2` has an insertion ratio of its own.

    Raises:
        ConfigError: There is none of that name, or it has no such ratio.
    """
    kind, at, rho = name.partition("@")
    defence = DEFENCES.get(kind).beside(recipe)
    if not at:
        return defence
    try:
        ratio = float(rho)
    except ValueError:
        raise ConfigError(f"compare: {name!r}: {rho!r} is no number; give the rho of {kind}, such as 0.2") from None
    return defence.at(ratio)


def compared(names: str, recipe: RepoisonConfig) -> list[Defence]:
    """The defences of these names, with commas, each as of `named`.

    Raises:
        ConfigError: As of `named`.
    """
    given = filter(None, map(str.strip, names.split(",")))
    return [named(name, recipe) for name in given]
