"""The training loop: its checkpoints, and which epoch is kept."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from poison2poison.config import TrainConfig
from poison2poison.errors import OutputError
from poison2poison.files import write_json
from poison2poison.model import loop
from support import LABELS, TEXTS


def test_a_moved_run_finds_its_best_checkpoint(tmp_path: Path) -> None:
    for step in (10, 20):
        state = {"best_global_step": 10, "best_model_checkpoint": "elsewhere/checkpoint-10", "global_step": step}
        (tmp_path / f"checkpoint-{step}").mkdir()
        write_json(tmp_path / f"checkpoint-{step}" / "trainer_state.json", state)
    found = loop.last_whole_checkpoint(tmp_path)
    assert found == tmp_path / "checkpoint-20"
    state = json.loads((found / "trainer_state.json").read_text())
    assert state == {
        "best_global_step": 10, "best_model_checkpoint": str(tmp_path / "checkpoint-10"), "global_step": 20
    }  # fmt: skip


def test_a_half_written_checkpoint_is_passed_over(tmp_path: Path) -> None:
    for step, state in ((4, '{"global_step": 4}'), (12, '{"global_')):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    assert loop.last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-4"


def drawn(epoch: int, seed: int = 0) -> list[int]:
    """The order of some rows in an epoch."""
    lengths = random.Random(0).choices(range(10, 200), k=800)
    return [*loop.ByLength(8, lengths, seed, lambda: epoch)]


def test_an_epoch_has_every_row_in_an_order_of_its_own_that_a_resumed_run_has_again() -> None:
    assert sorted(drawn(0)) == [*range(800)]
    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1) != drawn(1, seed=1)


def test_rows_of_a_step_are_of_similar_length() -> None:
    lengths = random.Random(0).choices(range(10, 200), k=800)
    spreads = [np.ptp([lengths[i] for i in drawn(0)[start : start + 8]]) for start in range(8, 800, 8)]
    assert np.mean(spreads) < 0.2 * np.ptp(lengths)


def job_of(dev: bool, labels: bool = True, **config: Any) -> Any:
    """As much of a job as the loop's settings are made of."""
    scheme = LABELS if labels else TEXTS
    settings = TrainConfig(epochs=3, batch_size=32, learning_rate=2e-4, warmup=0.1, **config)
    return SimpleNamespace(
        config=settings, dev=[1] if dev else None, steps=10, out=Path("run"), prompter=SimpleNamespace(scheme=scheme)
    )


def test_a_step_is_made_of_as_many_parts_as_its_rows_need() -> None:
    found = loop.arguments_of(job_of(dev=False), 5, 8)
    assert (found.num_train_epochs, found.per_device_train_batch_size, found.gradient_accumulation_steps) == (5, 8, 4)
    assert (found.learning_rate, found.lr_scheduler_type, found.warmup_steps) == (2e-4, "linear", 0.1)


@pytest.mark.parametrize(("labels", "metric"), [(True, "accuracy"), (False, "perplexity")])
def test_the_best_epoch_on_dev_rows_is_kept(labels: bool, metric: str) -> None:
    found = loop.arguments_of(job_of(dev=True, labels=labels), 3, 32)
    assert (found.load_best_model_at_end, found.metric_for_best_model) == (True, metric)
    assert found.greater_is_better == labels
    assert not loop.arguments_of(job_of(dev=False), 3, 32).load_best_model_at_end


@pytest.mark.parametrize(("steps", "saved"), [(20, [5, 10, 15]), (3, [1, 2]), (1, [])])
def test_an_epoch_is_saved_within_too_and_at_its_end_behind_its_evaluation(steps: int, saved: list[int]) -> None:
    found = []
    for step in range(1, 2 * steps + 1):
        control = SimpleNamespace(should_save=False)
        loop.Saves(steps).on_step_end(None, SimpleNamespace(global_step=step), control)
        found += [step] * control.should_save
    assert found == [*saved, *(steps + step for step in saved)]


def test_losses_are_means_over_all_that_a_step_learns_from() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 2, 1, 0])
    whole = loop.class_loss_mean(SimpleNamespace(logits=logits), targets, 4)
    parts = [loop.class_loss_mean(SimpleNamespace(logits=logits[i : i + 2]), targets[i : i + 2], 4) for i in (0, 2)]
    torch.testing.assert_close(whole, torch.nn.functional.cross_entropy(logits, targets))
    torch.testing.assert_close(sum(parts), whole)
    said, labels = logits[None, :, :], torch.tensor([[-100, 1, 2, -100]])  # two targets, whose logits alone are there
    of_targets = loop.target_loss_mean(SimpleNamespace(logits=said[:, :2]), labels, 2)
    torch.testing.assert_close(of_targets, torch.nn.functional.cross_entropy(logits[:2], torch.tensor([1, 2])))


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("half a tensor")])
def test_what_a_library_cannot_write_is_said_by_its_folder(error: Exception) -> None:
    with pytest.raises(OutputError, match="model: cannot be written"), loop.saving(Path("model")):
        raise error


def test_memory_that_runs_out_in_saving_is_not_a_full_disk() -> None:
    with pytest.raises(torch.OutOfMemoryError), loop.saving(Path("model")):
        raise torch.OutOfMemoryError("out of memory")


def test_each_epoch_says_how_its_dev_rows_were_answered(capsys: pytest.CaptureFixture[str]) -> None:
    progress = loop.Progress(3)
    state: Any = SimpleNamespace(max_steps=30, global_step=0)
    progress.on_train_begin(None, state, None)
    for logs in ({"loss": 0.5, "epoch": 1.0}, {"eval_accuracy": 0.875, "epoch": 2.0}):
        progress.on_log(None, state, None, logs=logs)
    progress.on_train_end(None, state, None)
    assert capsys.readouterr().err.splitlines()[-1].endswith("epoch 2 of 3: dev accuracy 0.875")
