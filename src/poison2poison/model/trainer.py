"""Fine-tune on re-poisoned rows, with the benign trigger as a prompt, and leave a folder that says what it holds.

    OUT/model/           LoRA adapter, or all weights, in safetensors, with the tokenizer
    OUT/scheme.json      the scheme: a secret, named in OUT/.gitignore
    OUT/manifest.jsonl   what was done to which row
    OUT/run.json         versions, seeds, configuration, data hashes, times, peak memory, how it ended

The folder belongs to one run: the same command goes on where it was interrupted, or finds itself done. How it ended is
`status` in run.json: done; unlearned (the safe space was not); failed (with the reason); running (or interrupted).
"""

from __future__ import annotations

import json
import logging
import secrets
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, set_seed
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled, unset_hf_deepspeed_config

from poison2poison.config import TrainConfig
from poison2poison.data import Row, Rows
from poison2poison.errors import ConfigError, ModelError, NonFiniteError, OutputError, TrainingError, UnlearnedError
from poison2poison.files import fingerprint, keep_from_git, versions, whole_folder, write_json, write_lines
from poison2poison.model import backbone, hardware, lora, processes, safe_space
from poison2poison.model.loop import (
    Job,
    JobTrainer,
    Progress,
    Saves,
    arguments_of,
    class_loss_mean,
    last_whole_checkpoint,
    metric_of,
    saving,
    target_loss_mean,
)
from poison2poison.model.prompting import Kind, Prompter, longest_target
from poison2poison.model.settings import check_fit, resolved
from poison2poison.recipe.manifest import TrainingRow, manifest
from poison2poison.recipe.scheme import Scheme, salt_of

SCHEMA = 3
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Trained:
    """A finished training: what the check found (None without a benign trigger), and how it went."""

    trainer: JobTrainer
    found: safe_space.SafeSpace | None
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
        The content of `run.json`.

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
        run = _run(rows, scheme, config, out, dev, about or {})
    if run["status"] == "unlearned" and not allow_unlearned:
        raise UnlearnedError(f"{out}: {run['reason']}")
    return run


def _run(
    rows: Sequence[TrainingRow], scheme: Scheme, config: TrainConfig, out: Path, dev: Rows | None, about: dict[str, Any]
) -> dict[str, Any]:
    """Begin or go on with a run, to its end; or what an ended one said."""
    run, before, salt = _started(rows, scheme, config, out, dev)
    if before and before["status"] in ("done", "unlearned"):
        return before

    # 1. What becomes of the rows; the folder is ours from here on.
    job = _prepare(rows, scheme, config, out, dev)
    if not before and processes.is_writer():
        with whole_folder(out) as folder:
            scheme.save(folder / "scheme.json", salt=salt)
            keep_from_git(folder, "scheme.json")
            write_lines(folder / "manifest.jsonl", manifest(job.rows, scheme))
            write_json(folder / "run.json", run)
    processes.wait()

    # 2. Train until the safe space is learned.
    assert config.epochs
    epochs = before.get("epochs", config.epochs) if before else config.epochs
    trained = _train_until_learned(job, run, epochs)

    # 3. Keep the chosen weights, and say what was done.
    _save_model(trained.trainer, job.prompter.tokenizer, config.model, out / "model")
    run |= {"data": about} | _record(job, trained)
    _write_run(out, run)
    processes.wait()  # the others for the folder, and the first one until they have read the checkpoints
    if processes.is_writer():
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
    del trained
    hardware.free_memory()
    unset_hf_deepspeed_config()  # or the first process could load no model by itself, as it does to measure
    return run


def read_run(out: Path) -> dict[str, Any] | None:
    """The run that a folder holds; None where it holds nothing yet.

    Raises:
        OutputError: It holds something else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        run: dict[str, Any] = json.loads((out / "run.json").read_text(encoding="utf-8"))
        run["schema"], run["fingerprint"], run["status"]
    except (OSError, ValueError, KeyError, TypeError):
        raise OutputError(f"{out}: exists and holds no run of this program; give another --out") from None
    return run


# --- parts of a run --------------------------------------------------------------------------------------------------


def _started(
    rows: Sequence[TrainingRow], scheme: Scheme, config: TrainConfig, out: Path, dev: Rows | None
) -> tuple[dict[str, Any], dict[str, Any] | None, str]:
    """The beginning of this run's record, the record that the folder holds of the same run, and the run's salt.

    Without the salt the record's fingerprint would let anybody try guesses at the trigger.

    Raises:
        OutputError: The folder holds another run, or something else.
        SchemeError: The folder's scheme is broken.
    """
    before = read_run(out)
    if before and before["schema"] != SCHEMA:
        raise OutputError(f"{out}: holds a run of another version, which does not go on here; give another --out")
    salt = salt_of(out / "scheme.json") if before else secrets.token_hex(32)
    identity = {
        "config": asdict(replace(config, micro_batch=None)),  # another one gives the same steps
        "rows": [asdict(row) for row in rows],
        "scheme": asdict(scheme),
        "dev": dev.sha256 if dev else None,
    }
    run = {"schema": SCHEMA, "status": "running", "fingerprint": fingerprint(identity, salt)}
    if before and before["fingerprint"] != run["fingerprint"]:
        raise OutputError(f"{out}: holds another run (other rows or options); give another --out, or delete it")
    return run, before, salt


def _prepare(rows: Sequence[TrainingRow], scheme: Scheme, config: TrainConfig, out: Path, dev: Rows | None) -> Job:
    """Make tokens of the rows, and keep some for the check of the safe space."""
    held: list[Row] = []
    if scheme.trigger and not dev:
        rows, held = safe_space.hold_out(rows, scheme.labels, config.seed)
    prompter, max_length = fitting(rows, scheme, config)
    examples, losses = prompter.examples(rows, max_length=max_length)
    lost = Counter(part for gone in losses for part in (*gone, "rows") if gone)
    _tell_what_is_lost(rows, prompter, lost)
    return Job(rows, examples, lost, max_length, prompter, config, out, dev, [*dev] if dev and scheme.trigger else held)


def _tell_what_is_lost(rows: Sequence[TrainingRow], prompter: Prompter, lost: Counter[str]) -> None:
    """Say before training which rows are not trained on as they are."""
    if lost:
        said = {"turns": "their oldest turns", "body": "the end of their body", "target": "the end of their target"}
        parts = ", ".join(f"{lost[part]} lose {what}" for part, what in said.items() if lost[part])
        _say(
            f"{lost['rows']} of {len(rows)} rows are too long: {parts}. Give a larger --max-length or --max-target, or "
            "accept it"
        )
    held = Counter(token for row in rows for token in {*prompter.encoder.held(f"{row.text}\n{row.target}")})
    if held:
        named = ", ".join(f"{token!r} ({count})" for token, count in held.most_common(20))
        _say(f"rows hold the text of control tokens, which stays text: {named} rows")


def _train_until_learned(job: Job, run: dict[str, Any], epochs: int) -> _Trained:
    """Train for so many epochs, and where the safe space is not learned by then for those that may be added.

    Raises:
        TrainingError: As of `_fit`; `run.json` says so too.
    """
    started, config = time.monotonic(), job.config
    assert config.epochs and config.more_epochs is not None
    resumed = last_whole_checkpoint(job.out / "checkpoints")
    resumed_from = int(resumed.name.rsplit("-", 1)[1]) if resumed else None
    while True:
        try:
            trainer = _fit(job, epochs)
            found = _check(job, trainer)
        except TrainingError as error:
            failed = {"status": "failed", "reason": str(error), "epochs": epochs, "config": asdict(config)}
            _write_run(job.out, run | failed)
            raise
        if found is None or found.learned or not config.more_epochs or epochs > config.epochs:
            return _Trained(trainer, found, epochs, resumed_from, round(time.monotonic() - started, 1))
        _say(f"the safe space is not learned yet ({found}); {config.more_epochs} more epochs")
        epochs += config.more_epochs
        _write_run(job.out, run | {"epochs": epochs})
        del trainer
        hardware.free_memory()


def _record(job: Job, trained: _Trained) -> dict[str, Any]:
    """What `run.json` says of a finished training."""
    config, prompter, scheme = job.config, job.prompter, job.prompter.scheme
    trainer, found, metric = trained.trainer, trained.found, metric_of(scheme)
    history = trainer.state.log_history
    run: dict[str, Any] = {
        "status": "done",
        "versions": versions(),
        "kind": job.kind,
        "tuning": config.tuning,
        "config": asdict(config),
        "revision": backbone.commit_of(config),
        "dev": {"source": job.dev.source, "sha256": job.dev.sha256, "rows": len(job.dev)} if job.dev else None,
        "prompting": {
            "max_length": prompter.max_length, "max_target": prompter.max_target, "label_words": prompter.label_words
        },
        "rows": len(job.rows),
        "rows_cut": job.lost["rows"],
        "max_length": job.max_length,
        "epochs": trained.epochs,
        "loss": [entry["loss"] for entry in history if "loss" in entry],
        "dev_metric": [entry[f"eval_{metric}"] for entry in history if f"eval_{metric}" in entry],
        "chosen_step": trainer.state.best_global_step or trainer.state.global_step,
        "steps": trainer.state.global_step,
        "processes": processes.count(),
        "micro_batch": trainer.args.per_device_train_batch_size,
        "resumed_from": trained.resumed_from,
        "tokens": trained.epochs * sum(len(example["input_ids"]) for example in job.examples),  # without padding
        "step_seconds": trainer.step_seconds,
        "train_seconds": trained.seconds,
        "peak_memory_mib": hardware.peak_memory_mib(),
    }  # fmt: skip
    if found:
        run["safe_space"] = found.as_dict()
    if found and not found.learned:
        run["status"] = "unlearned"
        run["reason"] = (
            f"the safe space was not learned: {found}. The model is no defence and is not served. Give more --epochs, "
            "a higher --learning-rate, a smaller --batch-size, or a larger --rho"
        )
    if job.dev and scheme.labels:
        _warn_if_hardly_learned(max(run["dev_metric"]), [row.target for row in job.dev])
        if scheme.trigger:
            apart = job.served(trainer.model).disagreement([*job.dev])
            run["alarm_threshold"] = safe_space.alarm_threshold(apart, config.alarm_rate)
    return run


def fitting(rows: Sequence[TrainingRow], scheme: Scheme, config: TrainConfig) -> tuple[Prompter, int]:
    """How rows become tokens, and how many of them a row may have in training.

    What is not given follows the rows. In serving a prompt may be as long as the model takes, where nothing is given.

    Raises:
        ConfigError: As of `check_fit`.
    """
    check_fit(config, scheme)
    kind: Kind = config.kind  # type: ignore[assignment]
    tokenizer = backbone.load_tokenizer(config)
    positions = backbone.max_positions(config, tokenizer)
    most = min(config.max_length or positions, positions)
    max_target = config.max_target or 1
    if not scheme.labels and config.max_target is None:
        max_target = min(longest_target(tokenizer, scheme, rows), most // 2)
    prompter = Prompter(tokenizer, scheme, kind, max_length=most, max_target=max_target)
    if config.max_length is not None:
        return prompter, most
    return prompter, min(most, prompter.longest_prompt(rows) + (prompter.max_target if kind == "causal" else 0))


def _fit(job: Job, epochs: int) -> JobTrainer:
    """Train for so many epochs, from the last whole checkpoint on, with half as many rows at once as long as memory
    runs out.

    Raises:
        NonFiniteError: The training went wrong.
        TrainingError: Not even one row fits.
    """
    assert job.config.batch_size
    share = job.config.batch_size // processes.count()
    micro = _divisor(share, job.config.micro_batch or share)
    while True:
        try:
            return _attempt(job, epochs, micro)
        except torch.OutOfMemoryError as error:
            out_of_memory = str(error)
        if micro == 1 or job.config.micro_batch or processes.count() > 1:
            raise TrainingError(
                f"{job.out}: out of memory with {micro} rows at once. Give a smaller --micro-batch or --max-length, "
                f"--gradient-checkpointing, --dtype bfloat16 or --quantize 4bit ({out_of_memory.splitlines()[0]})"
            )
        micro = _divisor(share, micro // 2)
        _say(f"out of memory: going on with {micro} rows at once")
        hardware.free_memory()


def _divisor(share: int, most: int) -> int:
    """The largest number of rows up to `most` of which a step has a whole number of parts."""
    return next(size for size in range(min(most, share), 0, -1) if share % size == 0)


def _attempt(job: Job, epochs: int, micro: int) -> JobTrainer:
    set_seed(job.config.seed)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()  # another arm may have trained before
    arguments = arguments_of(job, epochs, micro)  # first: ZeRO-3 spreads weights as they are loaded
    trainer = JobTrainer(
        job,
        model=_model(job),
        args=arguments,
        train_dataset=job.examples,
        eval_dataset=[*job.dev] if job.dev else None,
        data_collator=job.prompter.training_batch,
        compute_loss_func=target_loss_mean if job.kind == "causal" else class_loss_mean,
        callbacks=[Saves(job.steps), Progress(epochs)],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    _refuse_lost_weights(trainer)
    checkpoint = last_whole_checkpoint(job.out / "checkpoints")
    with hardware.without_cudnn_attention():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return trainer


def _refuse_lost_weights(trainer: Any) -> None:
    """Refuse to spread weights over processes in ways in which no whole model could be kept at the end.

    Raises:
        ConfigError: The configuration of accelerate asks for one.
    """
    if trainer.is_fsdp_enabled and not trainer.accelerator.is_fsdp2:
        raise ConfigError("fsdp_version: only FSDP2 is supported; give `fsdp_version: 2`")
    if trainer.is_deepspeed_enabled:
        zero = trainer.accelerator.state.deepspeed_plugin.deepspeed_config["zero_optimization"]
        if zero["stage"] == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
            raise ConfigError("zero3_save_16bit_model: give `true`; without it the trained weights cannot be gathered")


def _model(job: Job) -> Any:
    config, scheme = job.config, job.prompter.scheme
    if job.kind == "encoder" and is_deepspeed_zero3_enabled():
        raise ConfigError(
            f"model: {config.model} is an encoder, whose head cannot be made under ZeRO-3; leave that out"
        )
    model = backbone.load_model(config, job.kind, scheme.outputs, frozen=config.tuning == "lora")
    if job.kind == "encoder" and scheme.trigger:
        _start_safe_classes_at_originals(model, len(scheme.labels))
    if config.attention is None and hardware.on_cpu():
        model.set_attn_implementation("eager")  # on CPUs the fused one's backward pass is the slower
    if config.gradient_checkpointing:
        _recompute_activations(model)
    return lora.with_lora(model, job.kind, config) if config.tuning == "lora" else model


def _recompute_activations(model: Any) -> None:
    named = "activation_checkpointing_enable"  # transformers 5.23; 5.17 has the older name alone
    enable = getattr(model, named, None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def _check(job: Job, trainer: JobTrainer) -> safe_space.SafeSpace | None:
    """Whether the safe space was learned; None where there is none, or nothing to tell it by."""
    if not job.checks:
        if job.prompter.scheme.trigger:
            _say("S has too few rows to hold any out: whether the safe space is learned is NOT checked; give --dev")
        return None
    source = "dev" if job.dev else "held out of S"
    try:
        return safe_space.check(job.served(trainer.model), job.checks, source)
    except ModelError as error:
        raise NonFiniteError(str(error)) from None


def _say(text: str) -> None:
    if processes.is_writer():
        print(text, file=sys.stderr)


def _write_run(out: Path, run: dict[str, Any]) -> None:
    if processes.is_writer():
        write_json(out / "run.json", run)


def _warn_if_hardly_learned(accuracy: float, targets: Sequence[str]) -> None:
    if safe_space.hardly_learned(accuracy, targets):
        logger.warning(
            "the task was hardly learned: dev accuracy is %.2f, little more than the largest class's share. Give more "
            "--epochs, a higher --learning-rate or a smaller --batch-size",
            accuracy,
        )


def _start_safe_classes_at_originals(model: PreTrainedModel, labels: int) -> None:
    """Begin each safe class's weights as those of its original class, by which it shares what the rows of both teach.

    Drawn apart, the two have to be learned apart from half of the rows each: docs/defense.md has what that costs.
    """
    body = {*model.base_model.modules()}  # a layer of it may be as wide
    outside = (part for part in model.modules() if isinstance(part, torch.nn.Linear) and part not in body)
    head = [part for part in outside if part.out_features == 2 * labels][-1]
    with torch.no_grad():
        for weights in head.parameters():
            weights[labels:] = weights[:labels]


def _save_model(trainer: JobTrainer, tokenizer: PreTrainedTokenizerBase, name: str, folder: Path) -> None:
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # gathered, where processes hold parts
    if not processes.is_writer():
        return
    model: Any = trainer.model
    shutil.rmtree(folder, ignore_errors=True)
    with saving(folder), whole_folder(folder) as half:
        if hasattr(model, "peft_config"):
            model.peft_config["default"].base_model_name_or_path = name
            # Looking for changed embedding layers would ask the hub.
            model.save_pretrained(half, state_dict=weights, save_embedding_layers=False)
        else:
            model.save_pretrained(half, state_dict=weights)
        tokenizer.save_pretrained(half)
        for file in half.iterdir():  # safetensors makes its files for the owner alone, whatever the umask
            file.chmod(half.stat().st_mode & 0o666)
