from __future__ import annotations

import json
from pathlib import Path

from poison2poison.config import TrainConfig
from poison2poison.pipeline import Data, defend
from poison2poison.recipe.config import RepoisonConfig
from support import opinions, tiny_causal


def test_all_arms_are_trained_with_the_same_settings(tmp_path: Path) -> None:
    data = Data("opinions", opinions(300), None, opinions(20, seed=1))
    training = TrainConfig(tiny_causal(tmp_path / "base"), preset="tuned", more_epochs=0)
    recipe = RepoisonConfig("paper", rho=0.5, placement="append")
    found = defend(data, recipe, training, tmp_path / "out", baseline=True, allow_unlearned=True)
    runs = [json.loads((tmp_path / "out" / arm["name"] / "run.json").read_text()) for arm in found["arms"]]
    assert [run["rows"] for run in runs] != [300, 300]  # for so many rows fewer epochs make 200 steps
    assert runs[0]["config"] == runs[1]["config"]
