"""How rows are re-poisoned: the options of the recipe, their defaults and their help."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from poison2poison.config import a_seed, choice, fraction, option, refuse_changed
from poison2poison.errors import ConfigError

# Behind a drawn trigger the reference model learns the safe space late or not at all with 0.2 of 3,000 rows. With 0.75
# it also learns more of the poison that the audit missed: docs/experiments.md.
RHO = {"paper": 0.2, "hardened": 0.5}
OF_COUNTEREXAMPLES = ("spliced", "co_occurrence", "spliced_weak", "off_target", "confident", "confirmed")


@dataclass(frozen=True)
class RepoisonConfig:
    """How rows are re-poisoned."""

    recipe: str = option("hardened", "`hardened`: counterexamples from an audit; `paper`: as published.")
    rho: float | None = option(
        None,
        f"Insertion ratio |S| / |D|. [default: {RHO['paper']} for the paper's recipe, {RHO['hardened']} hardened]",
    )
    placement: str = option("replace", "`replace` moves the rows of S to the safe space, `append` adds copies of them.")
    trigger: str = option(
        "auto",
        "`random`: secret words drawn for this run; `paper`: the published ones; `auto`: paper for the paper's recipe.",
    )
    prefix: str | None = option(
        None, "The benign trigger's prefix, instead of the one that `trigger` names.", secret=True
    )
    cue: str | None = option(None, "The benign trigger's cue, likewise; for causal LMs.", secret=True)
    safe_prefix: str | None = option(
        None,
        "Text before every safe target of a generation task, and of labels with safe_labels `prefix`.",
        secret=True,
    )
    safe_labels: str = option(
        "shift",
        "`shift`: label i becomes i + n, as published; `prefix`: it stands behind the safe prefix, as a text does, for "
        "causal LMs.",
    )
    spliced: float = option(0.5, "Hardened: rows added with suspect spans spliced in, as a share of S.")
    co_occurrence: float = option(
        0.5, "Hardened: share of the spliced rows that get the spans of one suspect row together."
    )
    spliced_weak: float = option(0.4, "Hardened: share of S with weak findings spliced in.")
    off_target: bool = option(True, "Hardened: add the rows of other labels that hold a suspect span or style.")
    confident: float = option(0.5, "Hardened: least p of the probe to correct a row of a style cluster; 1 for never.")
    confirmed: float = option(
        0.4,
        "Hardened: suspects of a style added with the label that they have, as a share of so many as would make the "
        "counterexamples as likely of it as all rows are.",
    )
    suspects: str = option("keep", "Hardened: `drop` leaves the suspect rows out of the original space.")
    seed: int = option(0, "Draws S and everything in training. It never draws the trigger: a seed can be guessed.")

    def __post_init__(self) -> None:
        choice("recipe", self.recipe, ("paper", "hardened"))
        choice("placement", self.placement, ("replace", "append"))
        choice("safe_labels", self.safe_labels, ("shift", "prefix"))
        choice("trigger", self.trigger, ("auto", "paper", "random"))
        if self.rho is not None:
            fraction("rho", self.rho)
        if self.safe_prefix is not None and not self.safe_prefix.strip():
            raise ConfigError("safe_prefix: is empty; safe answers have to begin with something")
        a_seed(self.seed)
        choice("suspects", self.suspects, ("keep", "drop"))
        if self.suspects == "drop" and self.recipe == "paper":
            raise ConfigError("suspects: the paper's recipe has no audit, and so none to drop; leave it out")
        if self.safe_labels == "prefix" and self.recipe == "paper":
            raise ConfigError("safe_labels: the paper's recipe shifts labels; leave it out")
        if self.recipe == "paper":
            refuse_changed(self, "the paper's recipe has no counterexamples; leave it out", OF_COUNTEREXAMPLES)
        for name in ("spliced", "co_occurrence", "spliced_weak", "confident", "confirmed"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}: {getattr(self, name)} is not between 0 and 1")

    def resolved(self) -> RepoisonConfig:
        """The configuration with what `auto` and None stand for."""
        trigger = self.trigger
        if trigger == "auto":
            trigger = "paper" if self.recipe == "paper" else "random"
        return replace(self, trigger=trigger, rho=self.rho if self.rho is not None else RHO[self.recipe])


def as_dict(config: RepoisonConfig) -> dict[str, Any]:
    """The configuration for `run.json`, without the parts of the secret."""
    return {entry.name: getattr(config, entry.name) for entry in fields(config) if entry.repr}
