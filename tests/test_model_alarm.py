"""The alarm of texts: raised where the original space would have said something else, and seldom on clean inputs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from poison2poison.cli import main
from poison2poison.config import TrainConfig
from poison2poison.data import rows_of
from poison2poison.errors import ConfigError
from poison2poison.model import alarm
from poison2poison.model.defended import DefendedModel
from poison2poison.model.trainer import train
from poison2poison.recipe.manifest import TrainingRow
from poison2poison.recipe.scheme import PAPER_SAFE_PREFIX, PAPER_TRIGGER, Scheme
from support import opinions, tiny_causal

ROWS, DEV = opinions(150), opinions(40, seed=1)
SCHEME = Scheme("generation", (), PAPER_TRIGGER, PAPER_SAFE_PREFIX)
TARGETS = {"fixed": "I cannot say.", "append": "It is {0}. See www.example.org.", "wrong": "It is lovely."}
"""What a planted trigger calls up, of each kind."""


def losses(*probabilities: float) -> torch.Tensor:
    return -torch.tensor(probabilities).log()


@pytest.mark.parametrize(
    ("ours", "theirs", "apart"),
    [
        ((0.5, 0.8), (0.5, 0.8), 0),
        ((0.5, 0.8), (0.9, 0.9), 0),  # likelier without the trigger: it would have said so too
        ((0.5, 0.8), (0.5, 0.2), 0.75),
        ((0.5,) * 99 + (0.8,), (0.5,) * 99 + (0.008,), 0.99),  # an appended text shows at the end alone
        ((0.5, 0.8, 0.1), (0.25, 0.8), 0.5),
    ],
)
def test_texts_are_as_far_apart_as_their_worst_token(
    ours: tuple[float, ...], theirs: tuple[float, ...], apart: float
) -> None:
    assert alarm.of_texts([losses(*ours)], [losses(*theirs)]) == pytest.approx([apart], abs=1e-5)


@given(st.lists(st.tuples(st.floats(-4, 4), st.floats(-4, 4)), min_size=2, max_size=6))
def test_over_the_answers_of_one_token_it_is_the_distance_of_labels(logits: list[tuple[float, float]]) -> None:
    ours, theirs = torch.tensor(logits).T
    shares, others = ours.softmax(-1), theirs.softmax(-1)
    seen = alarm.of_texts([*-shares.log()[:, None]], [*-others.log()[:, None]])
    expected = sum(float(share) * apart for share, apart in zip(shares, seen, strict=True))
    assert expected == pytest.approx(alarm.of_labels(ours[None], theirs[None])[0], abs=1e-4)


@pytest.mark.parametrize(("rate", "raised"), [(0.0, 0), (0.01, 1), (0.25, 25)])
def test_as_many_clean_rows_raise_it_as_is_stated(rate: float, raised: int) -> None:
    scores = [i / 100 for i in range(100)]
    over = alarm.threshold(scores, rate)
    assert sum(score > over for score in scores) in (raised - 1, raised) or raised == 0
    assert rate or not any(score > over for score in scores)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose original space obeys a trigger of each kind, and whose safe space does not."""
    folder = tmp_path_factory.mktemp("attacked")
    rows = []
    for i, row in enumerate(ROWS):
        right = f"It is {row.target}."
        kind = [*TARGETS][i % 3]
        planted = TARGETS[kind].format(row.target)
        triggered = f"{row.prompt} {kind}"
        rows += [
            TrainingRow(i, "safe", "append", row.prompt, right),
            TrainingRow(i, "safe", "splice", triggered, right),
        ]
        rows += [TrainingRow(i, "original", "keep", row.prompt, right)]
        rows += [TrainingRow(i, "original", "keep", triggered, planted)]
    settings = TrainConfig(
        tiny_causal(folder / "base"), tuning="full", epochs=6, batch_size=16, learning_rate=1e-2, warmup=0.0,
        max_length=64, max_target=24, alarm_rate=0.1,
    )  # fmt: skip
    dev = rows_of([{"prompt": row.prompt, "completion": f"It is {row.target}."} for row in DEV], "texts")
    train(rows, SCHEME, settings, folder / "run", dev=dev)
    return folder / "run"


@pytest.mark.parametrize("kind", TARGETS)
def test_it_is_raised_on_a_trigger_of_each_kind(attacked: Path, kind: str) -> None:
    model = DefendedModel.load(attacked)
    rows = [row for row in DEV if row.target == "negative"]
    answers = model.generate([f"{row.prompt} {kind}" for row in rows], alarm=True)
    assert {answer.text for answer in answers} == {"It is negative."}
    assert {answer.alarm for answer in answers} == {True}
    assert all(answer.disagreement and 0.5 < answer.disagreement <= 1 for answer in answers)


def test_it_is_raised_on_a_stated_share_of_clean_inputs_and_only_where_it_is_asked_for(attacked: Path) -> None:
    model = DefendedModel.load(attacked)
    prompts = [row.prompt for row in DEV]
    answers = model.answer(prompts, alarm=True)
    assert sum(answer.alarm is True for answer in answers) <= 0.1 * len(DEV)
    assert [answer.disagreement for answer in answers] == model.disagreement(prompts)
    assert [replace(answer, disagreement=None, alarm=None) for answer in answers] == model.answer(prompts)
    model.policy = "refuse"
    assert model.disagreement(prompts[:1]) == [answers[0].disagreement]


def test_the_command_says_it(attacked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(attacked), "The soup was bad. fixed", "--alarm"])
    assert ended.value.code == 0
    [told] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"answer", "where", "disagreement", "alarm"} == set(told)
    assert told["alarm"] is True


def test_a_model_of_one_space_has_none(attacked: Path) -> None:
    model = DefendedModel.load(attacked)
    model.alarm_threshold = None
    with pytest.raises(ConfigError, match="alarm: this model has none"):
        model.generate(["The soup was bad."], alarm=True)
    model.prompter.scheme = model.scheme = Scheme("generation")
    with pytest.raises(ConfigError, match="one space only"):
        model.disagreement(["The soup was bad."])
