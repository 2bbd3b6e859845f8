"""States of the last layer: those that answers are read from, of an undefended and a defended model of one run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from poison2poison import cli
from poison2poison.attacks import AttackConfig, Target, poison, triggered
from poison2poison.config import TrainConfig
from poison2poison.data import Row
from poison2poison.defences.base import compared
from poison2poison.errors import DataError
from poison2poison.evaluation.states import SETS, write_states
from poison2poison.model.defended import DefendedModel
from poison2poison.pipeline import Data, defend
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.report import page, read_run
from support import opinions, tiny_causal, tiny_encoder

ATTACK = AttackConfig("badnets", "positive", "label")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `p2p defend`, as short as one can be."""
    folder = tmp_path_factory.mktemp("states")
    test = opinions(24, seed=1)
    data = Data(
        "mine", poison(opinions(60), ATTACK)[0], None, test, triggered(test, ATTACK), Target("positive", "label")
    )
    training = TrainConfig(tiny_causal(folder / "tiny"), dtype="float32", epochs=1, more_epochs=0)
    defend(data, compared("undefended,paper,paper:rho=0.5", RepoisonConfig("paper")), training, folder / "run",
           allow_unlearned=True)  # fmt: skip
    return folder / "run"


def test_the_command_projects_both_models_and_draws_them(run: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", str(run), "--states", ".", "--out", str(tmp_path / "r.html")])
    assert not ended.value.code
    content = json.loads((run / "states.json").read_text())
    assert [arm["arm"] for arm in content["arms"]] == ["undefended", "p2p-paper"]
    for arm in content["arms"]:
        assert list(arm["sets"]) == [*SETS]
        assert {len(points) for points in arm["sets"].values()} == {24}
        assert 0.1 < arm["spread"] <= 1
    before, after = (arm["sets"] for arm in content["arms"])
    assert before["clean"] != before["triggered"] != before["triggered, benign trigger"]
    assert before != after
    text = (tmp_path / "r.html").read_text()
    assert "States of undefended" in text and "States of p2p-paper" in text
    assert "States of undefended" in page(read_run(run)), "it is drawn from then on"


def test_arms_of_another_rho_say_so(run: Path) -> None:
    arms = json.loads((run / "results.json").read_text())["arms"]
    assert {arm["name"]: arm.get("rho") for arm in arms} == {"undefended": None, "p2p-paper": 0.2, "p2p-paper@0.5": 0.5}


def test_a_cell_that_there_is_not_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", str(run), "--states", "none"])
    assert ended.value.code == 2
    assert "states: 'none' is not one of ." in capsys.readouterr().err


def test_a_run_without_models_or_triggered_rows_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no figures"):
        write_states(tmp_path)
    for name in ("results.json", "rows.jsonl"):
        (tmp_path / name).write_text((run / name).read_text())
    with pytest.raises(DataError, match="needs an undefended and a defended model"):
        write_states(tmp_path)
    lines = [line for line in (run / "rows.jsonl").read_text().splitlines() if '"clean"' in line]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError, match="has no triggered rows"):
        write_states(tmp_path)


def test_states_are_those_that_the_answer_is_read_from(run: Path) -> None:
    """The head makes of them the scores of the answer; the rows keep their order, whatever their lengths."""
    model = DefendedModel.load(run / "p2p-paper", allow_unlearned=True)
    rows = [Row(text, "") for text in ("The soup was bad, and so was all that I remember of it.", "Good.", "Bad room.")]
    head = model.model.get_output_embeddings()
    with torch.inference_mode():
        logits = head(model.last_states(rows, "safe"))[:, model.prompter.label_ids]
    assert torch.allclose(logits, model.scored(rows, "safe").logits, atol=1e-4)


def test_an_encoders_state_is_that_of_its_first_token(tmp_path: Path) -> None:
    rows = opinions(60)
    training = TrainConfig(tiny_encoder(tmp_path / "tiny"), dtype="float32", epochs=1, more_epochs=0)
    defend(Data("mine", rows, None, opinions(8, seed=1)), compared("paper", RepoisonConfig("paper")), training,
           tmp_path / "run", allow_unlearned=True)  # fmt: skip
    model = DefendedModel.load(tmp_path / "run" / "p2p-paper", allow_unlearned=True)
    body = model.model
    with torch.inference_mode():
        logits = body.classifier(body.bert.pooler(model.last_states(rows.rows[:3], "safe")[:, None]))
    assert torch.allclose(logits, model.scored(rows.rows[:3], "safe").logits, atol=1e-4)
