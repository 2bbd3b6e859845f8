"""What a training needs is made before its folder: tokens, rows for the check, and a word on what is lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from poison2poison.config import TrainConfig
from poison2poison.data import Rows, Turn, rows_of
from poison2poison.errors import ConfigError
from poison2poison.model.job import Job, fitting, prepare
from poison2poison.model.loss import IGNORED
from poison2poison.model.settings import resolved
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.recipe.manifest import TrainingRow, plain
from poison2poison.recipe.repoison import repoison
from poison2poison.recipe.scheme import Scheme
from support import LABELS, TEXTS, opinions, tiny_causal, tiny_encoder

ROWS, DEV = opinions(240), opinions(40, seed=1)
REPOISONED = repoison(ROWS, LABELS, RepoisonConfig("paper", rho=0.5))
UNDEFENDED = Scheme("classification", ROWS.labels)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    return resolved(TrainConfig(tiny_causal(tmp_path_factory.mktemp("base")), batch_size=16), len(ROWS))


def job_of(rows: list[TrainingRow], scheme: Scheme, config: TrainConfig, dev: Rows | None = None) -> Job:
    return prepare(rows, scheme, config, Path("nowhere"), dev)


def test_dev_rows_are_what_the_safe_space_is_checked_on(config: TrainConfig) -> None:
    job = job_of(REPOISONED, LABELS, config, DEV)
    assert job.checks == [*DEV]
    assert len(job.rows) == len(job.examples) == 240
    assert not Path("nowhere").exists()


def test_without_dev_rows_a_tenth_of_s_is_kept_out_of_training(config: TrainConfig) -> None:
    job = job_of(REPOISONED, LABELS, config)
    assert (len(job.checks), len(job.rows), len(job.examples)) == (12, 228, 228)
    assert {row.prompt for row in job.checks} <= {row.body for row in REPOISONED if row.space == "safe"}


def test_without_a_benign_trigger_there_is_no_safe_space_to_check(config: TrainConfig) -> None:
    job = job_of(plain(ROWS), UNDEFENDED, config, DEV)
    assert job.checks == []
    assert len(job.rows) == 240


@pytest.mark.parametrize(("batch", "steps"), [(16, 15), (100, 3), (240, 1), (1000, 1)])
def test_the_last_step_of_an_epoch_may_have_fewer_rows(batch: int, steps: int, config: TrainConfig) -> None:
    assert job_of(plain(ROWS), UNDEFENDED, replace(config, batch_size=batch)).steps == steps


def test_the_model_is_served_in_the_number_format_of_its_training(config: TrainConfig, tmp_path: Path) -> None:
    from poison2poison.model import backbone

    job = job_of(plain(ROWS), UNDEFENDED, replace(config, dtype="float32"))
    served = job.served(backbone.load_model(config, "causal", 0, frozen=True))
    assert (served.dtype, served.prompter) == ("float32", job.prompter)
    assert job.checkpoints == Path("nowhere") / "checkpoints"


def test_what_rows_lose_is_counted_and_said(config: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    said = (Turn("user", "good " * 30), Turn("assistant", "bad " * 30))
    rows = [
        TrainingRow(0, "original", "keep", "good " * 90, "bad " * 30),
        TrainingRow(1, "original", "keep", "The soup", "bad", said),
        TrainingRow(2, "original", "keep", "The soup", "bad " * 30),
        TrainingRow(3, "original", "keep", "The soup", "bad"),
    ]
    job = job_of(rows, TEXTS, replace(config, max_length=64, max_target=12))
    assert job.lost == {"rows": 3, "body": 1, "turns": 1, "target": 2}
    said_before = capsys.readouterr().err
    assert "3 of 4 rows are too long: 1 lose their oldest turns, 1 lose the end of their body, 2 lose" in said_before
    assert "--max-length or --max-target" in said_before
    job_of(rows[3:], TEXTS, replace(config, max_length=64, max_target=12))
    assert "too long" not in capsys.readouterr().err


def test_texts_of_control_tokens_stay_text_and_are_said(
    config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    end = AutoTokenizer.from_pretrained(config.model).eos_token
    rows = [TrainingRow(i, "original", "keep", f"The soup {end * i} {end}", "negative") for i in range(2)]
    job_of([*rows, TrainingRow(2, "original", "keep", "The soup", "positive")], UNDEFENDED, config)
    assert f"which stays text: {end!r} (2) rows" in capsys.readouterr().err  # rows, not times
    job_of(plain(ROWS), UNDEFENDED, config)
    assert capsys.readouterr().err == ""


def test_a_length_that_is_not_given_follows_the_rows(config: TrainConfig) -> None:
    prompter, most = fitting(REPOISONED, LABELS, config)
    examples, lost = prompter.examples(REPOISONED, max_length=most)
    assert max(len(example["input_ids"]) for example in examples) == most
    assert not any(lost)
    assert prompter.max_length == 256  # in serving as many as the model takes


@pytest.mark.parametrize(("given", "most"), [(64, 64), (1000, 256)])
def test_a_length_that_is_given_holds_as_far_as_the_model_goes(given: int, most: int, config: TrainConfig) -> None:
    prompter, found = fitting(REPOISONED, LABELS, replace(config, max_length=given))
    assert (prompter.max_length, found) == (most, most)


def test_texts_get_room_for_their_targets_up_to_half_of_the_model(config: TrainConfig) -> None:
    rows = [TrainingRow(0, "safe", "replace", "a film", "It was good."), TrainingRow(1, "safe", "replace", "a", "Bad.")]
    short, _ = fitting(rows, TEXTS, config)
    learned = [[label for label in example["labels"] if label != IGNORED] for example in short.examples(rows)[0]]
    assert short.max_target == max(map(len, learned))
    long = [replace(rows[0], target="good " * 400)]
    assert fitting(long, TEXTS, config)[0].max_target == 128
    assert fitting(long, TEXTS, replace(config, max_target=200))[0].max_target == 200


def test_an_encoder_that_shall_write_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    config = resolved(TrainConfig(tiny_encoder(tmp_path / "base")), 4)
    with pytest.raises(ConfigError, match="cannot generate"):
        job_of(plain(rows_of([{"prompt": "a", "completion": "b"}] * 4, "texts")), TEXTS, config)
