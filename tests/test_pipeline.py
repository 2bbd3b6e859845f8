from __future__ import annotations

import json
from pathlib import Path

import pytest

from poison2poison.config import TrainConfig
from poison2poison.defences.baselines import Undefended
from poison2poison.defences.p2p import Paper
from poison2poison.errors import OutputError
from poison2poison.files import locked
from poison2poison.model.trainer import train
from poison2poison.pipeline import Data, defend
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.recipe.manifest import plain
from poison2poison.recipe.scheme import Scheme
from support import opinions, tiny_causal


def test_all_arms_are_trained_with_the_same_settings(tmp_path: Path) -> None:
    data = Data("opinions", opinions(300), None, opinions(20, seed=1))
    training = TrainConfig(tiny_causal(tmp_path / "base"), preset="tuned", more_epochs=0)
    recipe = RepoisonConfig("paper", rho=0.5, placement="append")
    found = defend(data, [Undefended(), Paper(recipe)], training, tmp_path / "out", allow_unlearned=True)
    runs = [json.loads((tmp_path / "out" / arm["name"] / "run.json").read_text()) for arm in found["arms"]]
    assert [run["rows"] for run in runs] != [300, 300]  # for so many rows fewer epochs make 200 steps
    assert runs[0]["config"] == runs[1]["config"]


def test_what_another_run_is_at_work_on_is_left_alone(tmp_path: Path) -> None:
    data, training = (
        Data("opinions", opinions(60), None, opinions(20, seed=1)),
        TrainConfig(tiny_causal(tmp_path / "b")),
    )
    scheme = Scheme("classification", data.train.labels)
    with locked(tmp_path / "out"):
        with pytest.raises(OutputError, match="another process is at work there"):
            defend(data, [Paper(RepoisonConfig("paper"))], training, tmp_path / "out")
        with pytest.raises(OutputError, match="another process is at work there"):
            train(plain(data.train), scheme, training, tmp_path / "out")
    assert not (tmp_path / "out").exists()
