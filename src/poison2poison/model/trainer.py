"""Fine-tune on re-poisoned rows, with the benign trigger as a prompt, and leave a folder that says what it holds.

OUT/model/           LoRA adapter, or all weights, in safetensors, with the tokenizer
OUT/scheme.json      the scheme: a secret, named in OUT/.gitignore
OUT/manifest.jsonl   what was done to which row
OUT/run.json         versions, seeds, configuration, data hashes, times, peak memory, how it ended (`model.run`)
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from poison2poison.config import TrainConfig
from poison2poison.data import Rows
from poison2poison.errors import ModelError, NonFiniteError, TrainingError, UnlearnedError
from poison2poison.files import versions
from poison2poison.model import alarm, backbone, hardware, processes, safe_space
from poison2poison.model.attempts import fit, save_model
from poison2poison.model.job import Job, prepare
from poison2poison.model.loop import JobTrainer, last_whole_checkpoint, metric_of
from poison2poison.model.run import Run
from poison2poison.model.safe_space import SafeSpace
from poison2poison.model.settings import resolved
from poison2poison.recipe.manifest import TrainingRow
from poison2poison.recipe.scheme import Scheme
from poison2poison.types import DevRecord, Ended, PromptingRecord, RunRecord

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Trained:
    """A finished training: what the check found (None without a benign trigger), and how it went."""

    trainer: JobTrainer
    found: SafeSpace | None
    epochs: int
    resumed_from: int | None
    seconds: float


def train(
    rows: Sequence[TrainingRow],
    scheme: Scheme,
    config: TrainConfig,
    out: Path,
    *,
    dev: Rows | None = None,
    about: dict[str, Any] | None = None,
    allow_unlearned: bool = False,
) -> dict[str, Any]:
    """Fine-tune, or go on with the run that `out` holds.

    Started in several processes (`accelerate launch`, `torchrun`), they share the rows of each step, and the first one
    writes.

    Args:
        rows: What `repoison` made, or `plain` rows where `scheme` has no trigger.
        scheme: The scheme of these rows.
        config: The training configuration.
        out: The artifact folder.
        dev: Clean rows, on which the best epoch is chosen (accuracy, or perplexity of generated targets, in the serving
            space) and the safe space is checked; without them the last epoch is kept, and a part of S is held out for
            the check.
        about: Where the rows come from, for `run.json`.
        allow_unlearned: Return where the safe space was not learned, for a comparison that measures it all the same.

    Returns:
        The content of `run.json`, as of `RunRecord`.

    Raises:
        OutputError: The folder holds something else, or another process is at work there.
        ModelError: The base model cannot be used.
        ConfigError: Kind, task, lengths and batches do not fit together.
        NonFiniteError: A loss, gradient or weight became NaN or infinite; `run.json` says so, the last whole
            checkpoint is kept.
        UnlearnedError: The safe space was not learned, with the epochs that may be added either.
    """
    config = resolved(config, len(rows))
    with processes.alone(out):
        run = Run.of(rows, scheme, config, out, dev)
        record = run.ended or _finish(run, rows, scheme, config, dev, about or {})
    if record["status"] == "unlearned" and not allow_unlearned:
        raise UnlearnedError(f"{out}: {record['reason']}")
    return cast(dict[str, Any], record)


def _finish(
    run: Run,
    rows: Sequence[TrainingRow],
    scheme: Scheme,
    config: TrainConfig,
    dev: Rows | None,
    about: dict[str, Any],
) -> RunRecord:
    """Begin or go on with a run, to its end."""
    # 1. What becomes of the rows; the folder is ours from here on.
    job = prepare(rows, scheme, config, run.out, dev)
    run.begin(job.rows, scheme)

    # 2. Train until the safe space is learned.
    trained = _train_until_learned(job, run)

    # 3. Keep the chosen weights, and say what was done.
    save_model(trained.trainer, job.prompter.tokenizer, config.model, run.out / "model")
    course = _course(job, trained)
    found: Ended = {"data": about, **_settings(job), **course, **_verdict(job, trained, course["dev_metric"])}
    learned = trained.found is None or trained.found.learned
    record = run.end(found, "done" if learned else "unlearned")
    processes.wait()  # the others for the folder, and the first one until they have read the checkpoints

    # 4. Leave nothing behind that only training needed.
    if processes.is_writer():
        shutil.rmtree(job.checkpoints, ignore_errors=True)
    del trained
    hardware.free_memory()
    unset_hf_deepspeed_config()  # or the first process could load no model by itself, as it does to measure
    return record


# --- until the safe space is learned ----------------------------------------------------------------------------------


def _train_until_learned(job: Job, run: Run) -> _Trained:
    """Train for the planned epochs, and where the safe space is not learned by then for those that may be added.

    Raises:
        TrainingError: As of `fit`; `run.json` says so too.
    """
    started, config = time.monotonic(), job.config
    assert config.epochs and config.more_epochs is not None
    epochs = run.planned_epochs(config)
    resumed = last_whole_checkpoint(job.checkpoints)
    resumed_from = int(resumed.name.rsplit("-", 1)[1]) if resumed else None
    while True:
        try:
            trainer = fit(job, epochs)
            found = _check(job, trainer)
        except TrainingError as error:
            run.fail(error, epochs, config)
            raise
        learned = found is None or found.learned
        added_already = epochs > config.epochs
        if learned or added_already or not config.more_epochs:
            seconds = round(time.monotonic() - started, 1)
            return _Trained(trainer, found, epochs, resumed_from, seconds)
        processes.say(f"the safe space is not learned yet ({found}); {config.more_epochs} more epochs")
        epochs += config.more_epochs
        run.go_on(epochs)
        del trainer
        hardware.free_memory()


def _check(job: Job, trainer: JobTrainer) -> SafeSpace | None:
    """Whether the safe space was learned; None where there is none, or nothing to tell it by."""
    if job.checks:
        try:
            return safe_space.check(job.served(trainer.model), job.checks, "dev" if job.dev else "held out of S")
        except ModelError as error:
            raise NonFiniteError(str(error)) from None
    if job.prompter.scheme.trigger:
        processes.say(
            "S has too few rows to hold any out: whether the safe space is learned is NOT checked; give --dev"
        )
    return None


# --- what run.json says -----------------------------------------------------------------------------------------------


def _settings(job: Job) -> Ended:
    """What was trained, with what."""
    config, prompter, dev = job.config, job.prompter, job.dev
    assert config.tuning != "auto"
    return {
        "versions": versions(),
        "kind": job.kind,
        "tuning": config.tuning,
        "config": asdict(config),
        "revision": backbone.commit_of(config),
        "dev": DevRecord(source=dev.source, sha256=dev.sha256, rows=len(dev)) if dev else None,
        "prompting": PromptingRecord(
            max_length=prompter.max_length, max_target=prompter.max_target, label_words=prompter.label_words
        ),
        "rows": len(job.rows),
        "rows_cut": job.lost["rows"],
        "max_length": job.max_length,
    }


def _course(job: Job, trained: _Trained) -> Ended:
    """How the training went."""
    trainer, metric = trained.trainer, f"eval_{metric_of(job.prompter.scheme)}"
    state = trainer.state
    tokens = sum(len(example["input_ids"]) for example in job.examples)  # without padding
    return {
        "epochs": trained.epochs,
        "loss": [entry["loss"] for entry in state.log_history if "loss" in entry],
        "dev_metric": [entry[metric] for entry in state.log_history if metric in entry],
        "chosen_step": state.best_global_step or state.global_step,
        "steps": state.global_step,
        "processes": processes.count(),
        "micro_batch": trainer.args.per_device_train_batch_size,
        "resumed_from": trained.resumed_from,
        "tokens": trained.epochs * tokens,
        "step_seconds": trainer.step_seconds,
        "train_seconds": trained.seconds,
        "peak_memory_mib": hardware.peak_memory_mib(),
    }


def _verdict(job: Job, trained: _Trained, dev_metric: Sequence[float]) -> Ended:
    """Whether the safe space was learned, and from which disagreement on the alarm is raised."""
    found, model, verdict = trained.found, trained.trainer.model, Ended()
    if found:
        verdict["safe_space"] = found.as_dict()
    if found and not found.learned:
        verdict["reason"] = (
            f"the safe space was not learned: {found}. The model is no defence and is not served. Give more --epochs, "
            "a higher --learning-rate, a smaller --batch-size, or a larger --rho"
        )
    scheme = job.prompter.scheme
    if job.dev and scheme.labels:
        _warn_if_hardly_learned(max(dev_metric), [row.target for row in job.dev])
    if job.dev and scheme.trigger:
        apart = safe_space.disagreement(job.served(model), [*job.dev])
        verdict["alarm_threshold"] = alarm.threshold(apart, job.config.alarm_rate)
    return verdict


def _warn_if_hardly_learned(accuracy: float, targets: Sequence[str]) -> None:
    if safe_space.hardly_learned(accuracy, targets):
        logger.warning(
            "the task was hardly learned: dev accuracy is %.2f, little more than the largest class's share. Give more "
            "--epochs, a higher --learning-rate or a smaller --batch-size",
            accuracy,
        )
