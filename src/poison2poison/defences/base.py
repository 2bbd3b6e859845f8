"""What a defence is: rows in, training rows and a scheme out; around that it may change training and inference.

How to add one: docs/how-to/add-a-defence.md.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from poison2poison.config import with_options
from poison2poison.data import Rows
from poison2poison.errors import ConfigError, DataError, told
from poison2poison.features import Ints
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.recipe.manifest import TrainingRow, plain
from poison2poison.recipe.scheme import Scheme
from poison2poison.registry import Registry

if TYPE_CHECKING:
    from poison2poison.defences.context import FilterContext
    from poison2poison.defences.shared import Shared
    from poison2poison.model.defended import DefendedModel

Need = Literal[
    "audit",
    "labels",
    "embeddings",
    "training",
    "causal LM",
    "gradients",
    "trusted rows",
    "clean teacher",
    "second model",
    "paraphrases",
    "inference cost",
]
UNDEFENDED = "undefended"
"""The arm that is trained on the rows as they are, and its folder."""


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
        needs: What a defender must have who may have the rows alone. `trusted rows` are the dev rows, `inference cost`
            is more than one pass an input.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[Need, ...]] = ()

    @classmethod
    def beside(cls, recipe: RepoisonConfig) -> Defence:
        """The defence as it is compared in a run of `recipe`."""
        return cls()

    def having(self, options: Sequence[str]) -> Defence:
        """The same with some of its options, texts `name=value`: of a dataclass its fields.

        Raises:
            ConfigError: There is no such option, or its value is not legal.
        """
        if not is_dataclass(self):
            raise ConfigError(f"{key_of(self.name)}: has no options; leave {told(':'.join(options))} out")
        return with_options(self, options, key_of(self.name))

    @property
    def arm(self) -> str:
        """Its name in `results.json`, and that of its folder."""
        return key_of(self.name)

    @property
    def folder(self) -> str:
        """The name of the folder that its model is trained in."""
        return self.arm

    def applies(self, rows: Rows) -> bool:
        """Whether the method says anything of such rows."""
        return True

    def prepare(self, shared: Shared) -> Prepared:
        """What is trained on, made of the untrusted rows. All defences of a run are asked before any is trained."""
        return Prepared.plain(shared.rows)

    def train(self, prepared: Prepared, fit: Fit) -> dict[str, Any]:
        """Fine-tune. Must give what `fit` gives, of a run that was interrupted or is done too."""
        return fit(prepared)

    def serve(self, model: DefendedModel, shared: Shared) -> DefendedModel:
        """The model as it is measured, of the one that the arm's folder holds, which stays as it is."""
        return model


class Afterwards(Defence):
    """A defence that comes after a training without one: it mends the model, or watches its inputs or answers.

    All of them begin with one and the same model, which is trained once.
    """

    @property
    def folder(self) -> str:
        """See `Defence`."""
        return UNDEFENDED


class RowFilter(Defence, ABC):
    """A published defence that points at rows; those are dropped, and the others trained on as they are."""

    @abstractmethod
    def suspects(self, context: FilterContext) -> Ints:
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

DefenceType = TypeVar("DefenceType", bound=type[Defence])


def key_of(name: str) -> str:
    """A name as it is written on the command line and as folders have it."""
    return name.casefold().replace(" ", "-")


def register(kind: DefenceType) -> DefenceType:
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


def compared(names: str, recipe: RepoisonConfig) -> list[Defence]:
    """The defences of these names, with commas, each as of `chosen`.

    Raises:
        ConfigError: As of `chosen`.
    """
    given = filter(None, map(str.strip, names.split(",")))
    return [chosen(one, recipe) for one in given]


def chosen(given: str, recipe: RepoisonConfig) -> Defence:
    """A defence by its name and options, such as `strip:copies=10:share=0.3`, as it is compared in a run of `recipe`.

    Raises:
        ConfigError: There is no such defence, or it has no such option or value.
    """
    name, *options = given.split(":")
    defence = DEFENCES.get(name).beside(recipe)
    return defence.having(options) if options else defence
