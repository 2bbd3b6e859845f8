"""The safe space watched in another trainer: what is logged, when, and that the training is left as it was.

What TRL does with it is in test_model_adopt.py.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from poison2poison.config import TrainConfig
from poison2poison.data import rows_of
from poison2poison.errors import DataError
from poison2poison.export import export
from poison2poison.model import safe_space
from poison2poison.model.callback import SafeSpaceCallback
from poison2poison.model.defended import DefendedModel
from poison2poison.recipe.scheme import PAPER_SAFE_PREFIX
from support import opinions, repoisoned, tiny_causal

DEV = opinions(20, seed=1)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model, and an export of rows of labels."""
    work = tmp_path_factory.mktemp("work")
    repoisoned(opinions(24), work / "rows")
    export(work / "rows", "trl", TrainConfig(tiny_causal(work / "base")), work / "mine")
    return work


@pytest.fixture
def model(work: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(work / "base").train()


def told_at(event: str, watch: SafeSpaceCallback, model: Any, strategy: str = "no") -> tuple[list[Any], dict[str, Any]]:
    """The trainer's log, and the metrics of its evaluation, behind an event."""
    state, metrics = SimpleNamespace(log_history=[], epoch=2.0, global_step=8), {"eval_loss": 1.0}
    getattr(watch, event)(SimpleNamespace(eval_strategy=strategy), state, None, model=model, metrics=metrics)
    return state.log_history, metrics


def test_figures_join_the_metrics_of_an_evaluation(work: Path, model: Any) -> None:
    log, metrics = told_at("on_evaluate", SafeSpaceCallback(work / "mine", [*DEV]), model)
    assert metrics["eval_loss"] == 1.0
    assert {"eval_safe_accuracy", "eval_leak", "eval_off_space", "eval_learned", "eval_alarm_threshold"} < {*metrics}
    assert log == [{**{name: value for name, value in metrics.items() if name != "eval_loss"}, "epoch": 2.0, "step": 8}]


@pytest.mark.parametrize(("strategy", "times"), [("no", 1), ("epoch", 0)])
def test_each_epoch_is_measured_where_nothing_else_is(strategy: str, times: int, work: Path, model: Any) -> None:
    log, _ = told_at("on_epoch_end", SafeSpaceCallback(work / "mine", [*DEV]), model, strategy)
    assert len(log) == times


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training: bool, work: Path, model: Any) -> None:
    model.train(training)
    told_at("on_evaluate", SafeSpaceCallback(work / "mine", [*DEV]), model)
    assert model.training == training


def test_a_trainers_own_loggers_are_told_instead(work: Path, model: Any) -> None:
    logged: list[dict[str, float]] = []
    trainer: Any = SimpleNamespace(log=logged.append)
    log, _ = told_at("on_evaluate", SafeSpaceCallback(work / "mine", [*DEV], trainer), model)
    assert (len(logged), log) == (1, [])


def test_the_figures_are_those_of_the_check(work: Path, model: Any) -> None:
    watch = SafeSpaceCallback(work / "mine", [*DEV])
    figures, served = watch.measure(model), DefendedModel(model, watch.prompter)
    found, apart = safe_space.check(served, [*DEV], "dev"), served.disagreement([*DEV])
    assert figures["eval_safe_accuracy"] == found.safe
    assert figures["eval_original_accuracy"] == found.original
    assert (figures["eval_leak"], figures["eval_off_space"]) == (found.leak, found.off_space)
    assert figures["eval_learned"] == 0.0  # nothing was trained
    assert figures["eval_disagreement"] == pytest.approx(sum(apart) / 20)
    assert figures["eval_alarm_threshold"] == max(apart)  # so few rows can raise no alarm at a rate of 0.01


def test_of_texts_the_same_is_logged(work: Path, model: Any, tmp_path: Path) -> None:
    texts = rows_of([{"prompt": row.prompt, "completion": f"It was {row.target}."} for row in opinions(12)], "texts")
    repoisoned(texts, tmp_path / "rows", PAPER_SAFE_PREFIX)
    export(tmp_path / "rows", "trl", TrainConfig(str(work / "base")), tmp_path / "mine")
    figures = SafeSpaceCallback(tmp_path / "mine", texts.rows[:2]).measure(model)
    assert {*figures} == {
        "eval_safe_rouge_l", "eval_original_rouge_l", "eval_leak", "eval_off_space", "eval_learned",
        "eval_disagreement", "eval_alarm_threshold",
    }  # fmt: skip


def test_a_folder_of_no_export_is_refused(work: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"export\.json"):
        SafeSpaceCallback(work / "rows", [*DEV])
