"""The recipe's options: what stands for what is not given, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from poison2poison.errors import ConfigError
from poison2poison.recipe.config import RepoisonConfig, as_dict


def test_the_default_is_hardened_with_a_drawn_trigger() -> None:
    default, paper = RepoisonConfig().resolved(), RepoisonConfig("paper").resolved()
    assert (default.recipe, default.trigger, default.rho) == ("hardened", "random", 0.5)
    assert (paper.recipe, paper.trigger, paper.rho) == ("paper", "paper", 0.2)
    assert RepoisonConfig("paper", trigger="random").resolved().trigger == "random"


@pytest.mark.parametrize(
    "options",
    [
        {"confirmed": 0.1, "recipe": "paper"},
        {"rho": 0.0},
        {"rho": 1.0},
        {"rho": 2.0},
        {"recipe": "soup"},
        {"placement": "x"},
        {"confident": 1.5},
        {"suspects": "x"},
        {"suspects": "drop", "recipe": "paper"},
        {"co_occurrence": -0.1},
        {"safe_prefix": " "},
        {"safe_labels": "auto"},
        {"safe_labels": "prefix", "recipe": "paper"},
    ],
)
def test_illegal_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        RepoisonConfig(**options)


def test_the_papers_recipe_takes_a_fifth_of_the_rows_and_a_given_share_holds() -> None:
    assert RepoisonConfig("paper", rho=0.3).resolved().rho == 0.3
    assert RepoisonConfig(rho=0.01).resolved().rho == 0.01
    resolved = RepoisonConfig().resolved()
    assert resolved.resolved() == resolved


def test_what_is_recorded_of_a_recipe_has_no_part_of_the_secret() -> None:
    recorded = as_dict(RepoisonConfig(prefix="Zyzzyva: ", cue="Qoph: ", safe_prefix="Oryx: "))
    assert {"prefix", "cue", "safe_prefix"}.isdisjoint(recorded)
    assert (recorded["recipe"], recorded["spliced"], recorded["seed"]) == ("hardened", 0.5, 0)


@pytest.mark.parametrize("name", ["spliced", "co_occurrence", "spliced_weak", "off_target", "confident", "confirmed"])
def test_the_papers_recipe_has_no_counterexamples_to_set(name: str) -> None:
    given: dict[str, Any] = {name: False if name == "off_target" else 0.25}
    RepoisonConfig(**given)
    with pytest.raises(ConfigError, match=f"{name}: the paper's recipe has no counterexamples"):
        RepoisonConfig("paper", **given)
