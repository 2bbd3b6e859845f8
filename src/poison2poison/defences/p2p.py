"""Poison-to-Poison as published and hardened, and the counterexamples of the hardened recipe alone."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from poison2poison.config import fraction, with_options
from poison2poison.data import Rows
from poison2poison.defences.base import Defence, Need, Prepared, compared, register
from poison2poison.defences.shared import Shared
from poison2poison.errors import ConfigError, InapplicableError, OutputError, SchemeError
from poison2poison.model.settings import check_fit
from poison2poison.recipe.config import RepoisonConfig, as_dict
from poison2poison.recipe.manifest import plain
from poison2poison.recipe.repoison import repoison
from poison2poison.recipe.scheme import Scheme
from poison2poison.recipe.trigger import build_scheme, check_options


@dataclass(frozen=True)
class Own:
    """What an arm can have of its own."""

    rho: float

    def __post_init__(self) -> None:
        fraction("rho", self.rho)


class P2P(Defence):
    """A benign trigger, and safe labels for a part of the rows (arXiv 2510.04503).

    Attributes:
        base: The recipe that it has.
        suspects: What becomes of suspect rows, where nothing else is given.
        recipe: How rows are re-poisoned.
        mark: Behind the name of the arm, where an insertion ratio of its own was asked for.
    """

    base: ClassVar[Literal["paper", "hardened"]]
    suspects: ClassVar[Literal["keep", "drop"]] = "keep"
    mark = ""

    def __init__(self, recipe: RepoisonConfig | None = None) -> None:
        self.recipe = recipe or RepoisonConfig(self.base, suspects=self.suspects)
        if self.recipe.recipe != self.base:
            raise ConfigError(f"recipe: {self.recipe.recipe!r} is not that of {self.arm}, {self.base!r}")

    @classmethod
    def beside(cls, recipe: RepoisonConfig) -> Defence:
        """With the options of the run's recipe where it is the same, else with its own defaults."""
        same = recipe if recipe.recipe == cls.base else RepoisonConfig(cls.base, seed=recipe.seed)
        return cls(replace(same, suspects=cls.suspects))

    def having(self, options: Sequence[str]) -> Defence:
        """See `Defence`. The one option is `rho`, which makes it an arm of its own."""
        recipe = self.recipe.resolved()
        assert recipe.rho is not None
        other, own = copy(self), with_options(Own(recipe.rho), options, self.name)
        other.recipe, other.mark = replace(self.recipe, rho=own.rho), f"@{own.rho:g}"
        return other

    @property
    def arm(self) -> str:
        """See `Defence`."""
        return f"p2p-{self.name}{self.mark}"

    def prepare(self, shared: Shared) -> Prepared:
        """See `Defence`. What a drawn trigger was in an interrupted run, it stays."""
        recipe = self.recipe.resolved()
        scheme = _scheme(shared.rows, recipe, shared.out / self.arm)
        check_fit(shared.training, scheme)
        found = shared.audit if "audit" in self.needs else None
        rows = repoison(shared.rows, scheme, recipe, found)
        return Prepared(rows, scheme, shared.rows, {"recipe": as_dict(recipe)})


@register
class Paper(P2P):
    """As published, with a trigger that everybody knows."""

    name = "paper"
    base = "paper"

    def prepare(self, shared: Shared) -> Prepared:
        """See `Defence`.

        Raises:
            InapplicableError: The rows hold the published trigger or safe prefix already: an attacker has guessed it.
        """
        try:
            return super().prepare(shared)
        except SchemeError as error:
            raise InapplicableError(str(error)) from None


@register
class Hardened(P2P):
    """With counterexamples from an audit."""

    name = "hardened"
    base = "hardened"
    needs: ClassVar[tuple[Need, ...]] = ("audit",)


@register
class HardenedDrop(Hardened):
    """Hardened, and the suspects are left out of the original space too."""

    name = "hardened-drop"
    suspects = "drop"


@register
class Counterexamples(Hardened):
    """All rows in the original space, and there the counterexamples of the hardened recipe with their right labels.

    The nearest thing to P2P without a secret: there is no benign trigger, in training or at inference.
    """

    name = "counterexamples"

    @property
    def arm(self) -> str:
        """See `Defence`."""
        return f"{self.name}{self.mark}"

    def prepare(self, shared: Shared) -> Prepared:
        """See `Defence`."""
        rows, recipe = shared.rows, self.recipe.resolved()
        scheme = Scheme(rows.task, rows.labels)
        repoisoned = repoison(rows, scheme, recipe, shared.audit)
        added = [row for row in repoisoned if row.action not in ("keep", "replace", "append")]
        dropped = {entry.row for entry in shared.audit.rows} if recipe.suspects == "drop" else set()
        kept = [row for row in plain(rows) if row.row not in dropped]
        here = [replace(row, space="original") for row in added]
        return Prepared([*kept, *here], scheme, rows, {"recipe": as_dict(recipe)})


@register
class CounterexamplesDrop(Counterexamples):
    """The same without the suspects."""

    name = "counterexamples-drop"
    suspects = "drop"


def of_recipe(recipe: RepoisonConfig) -> P2P:
    """The defence of a recipe."""
    return Paper(recipe) if recipe.recipe == "paper" else Hardened(recipe)


def of_run(recipe: RepoisonConfig, names: str) -> tuple[P2P, list[Defence]]:
    """The defence of a recipe; and with those that it is compared with, in the order of the tables.

    Args:
        recipe: The recipe.
        names: As of `compared`.
    """
    defence = of_recipe(recipe)
    others = compared(names, recipe)
    first = [other for other in others if other.name == "undefended"]
    return defence, [*first, defence, *(other for other in others if other not in first)]


def _scheme(rows: Rows, recipe: RepoisonConfig, folder: Path) -> Scheme:
    """The scheme of an interrupted run with a drawn trigger, or a new one."""
    check_options(rows, recipe)
    if recipe.trigger != "random" or not (folder / "scheme.json").exists():
        return build_scheme(rows, recipe)
    drawn = Scheme.load(folder / "scheme.json")
    if drawn.trigger is None:
        raise OutputError(f"{folder}: holds a run without a defence; give another --out, or delete it")
    has = {"prefix": drawn.trigger.prefix, "cue": drawn.trigger.cue}
    if drawn.safe_prefix:  # shifted labels have none
        has["safe_prefix"] = drawn.safe_prefix
    if drawn.labels and bool(drawn.safe_prefix) != (recipe.safe_labels == "prefix"):
        raise OutputError(f"{folder}: holds a run with other safe_labels; give another --out, or delete it")
    for name, text in has.items():
        if getattr(recipe, name) not in (None, text):
            raise OutputError(f"{folder}: holds a run with another {name}; give another --out, or delete it")
    return drawn
