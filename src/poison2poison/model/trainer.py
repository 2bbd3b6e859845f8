"""Fine-tune on re-poisoned rows, with the benign trigger as a prompt, and leave a folder that says what it holds.

    OUT/model/           LoRA adapter, or all weights, in safetensors, with the tokenizer
    OUT/scheme.json      the scheme: a secret
    OUT/manifest.jsonl   what was done to which row
    OUT/run.json         versions, seeds, configuration, data hashes, times, peak memory, how it ended

The folder belongs to one run: the same command goes on where it was interrupted, or finds itself done. How it ended is
`status` in run.json: done; unlearned (the safe space was not); failed (with the reason); running (or interrupted).
"""

from __future__ import annotations

import json
import logging
import math
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled, unset_hf_deepspeed_config
from transformers.pytorch_utils import Conv1D
from transformers.trainer_pt_utils import LengthGroupedSampler

from poison2poison.config import REFERENCE, TrainConfig
from poison2poison.errors import ConfigError, ModelError, NonFiniteError, OutputError, TrainingError, UnlearnedError
from poison2poison.files import fingerprint, versions, whole_folder, write_json, write_lines
from poison2poison.model import backbone, processes, safe_space
from poison2poison.model.defended import DefendedModel
from poison2poison.model.loss import only_target_logits, target_loss
from poison2poison.model.prompting import Kind, Prompter
from poison2poison.records import Row, Rows
from poison2poison.repoison import TrainingRow, manifest
from poison2poison.scheme import Scheme

SCHEMA = 2
SAVES_PER_EPOCH = 4
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Job:
    """What one training needs, the same for every attempt at it.

    Attributes:
        config: With nothing left open.
        examples: Token ids and targets of `rows`.
        cut: How many rows were too long.
        checks: Rows for the check of the safe space; none without a benign trigger.
        dev: Clean rows for the choice of the epoch, or None.
    """

    rows: Sequence[TrainingRow]
    examples: list[dict[str, Any]]
    cut: int
    prompter: Prompter
    config: TrainConfig
    out: Path
    dev: Rows | None
    checks: list[Row]

    @property
    def kind(self) -> Kind:
        return self.prompter.kind

    @property
    def steps(self) -> int:
        """Optimizer steps of an epoch."""
        assert self.config.batch_size
        return math.ceil(len(self.examples) / self.config.batch_size)


@dataclass(frozen=True)
class _Trained:
    """A finished training: what the check found (None without a benign trigger), and how it went."""

    trainer: _Trainer
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
        OutputError: The folder holds something else.
        ModelError: The base model cannot be used.
        ConfigError: Kind, task, lengths and batches do not fit together.
        NonFiniteError: A loss, gradient or weight became NaN or infinite; `run.json` says so, the last whole
            checkpoint is kept.
        UnlearnedError: The safe space was not learned, with the epochs that may be added either.
    """
    config = resolved(config, len(rows))
    identity = {
        "config": asdict(replace(config, micro_batch=None)),  # another one gives the same steps
        "rows": [asdict(row) for row in rows],
        "scheme": asdict(scheme),
        "dev": dev.sha256 if dev else None,
    }
    run: dict[str, Any] = {"schema": SCHEMA, "status": "running", "fingerprint": fingerprint(identity)}
    before = read_run(out)
    if before and before["fingerprint"] != run["fingerprint"]:
        raise OutputError(f"{out}: holds another run (other rows or options); give another --out, or delete it")
    if before and before["status"] == "done":
        return before
    if before and before["status"] == "unlearned":
        return _unless_unlearned(before, allow_unlearned)

    # 1. What becomes of the rows; the folder is ours from here on.
    job = _prepare(rows, scheme, config, out, dev)
    if not before and processes.is_writer():
        with whole_folder(out) as folder:
            scheme.save(folder / "scheme.json")
            write_lines(folder / "manifest.jsonl", manifest(job.rows, scheme))
            write_json(folder / "run.json", run)
    processes.wait()

    # 2. Train until the safe space is learned.
    assert config.epochs
    epochs = before.get("epochs", config.epochs) if before else config.epochs
    trained = _train_until_learned(job, run, epochs)

    # 3. Keep the chosen weights, and say what was done.
    _save_model(trained.trainer, job.prompter.tokenizer, config.model, out / "model")
    run |= {"data": about or {}} | _record(job, trained)
    _write_run(out, run)
    processes.wait()  # the others for the folder, and the first one until they have read the checkpoints
    if processes.is_writer():
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
    del trained
    backbone.free_memory()
    unset_hf_deepspeed_config()  # or the first process could load no model by itself, as it does to measure
    return _unless_unlearned(run, allow_unlearned)


def _unless_unlearned(run: dict[str, Any], allow_unlearned: bool) -> dict[str, Any]:
    if run["status"] == "unlearned" and not allow_unlearned:
        raise UnlearnedError(run["reason"])
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
        run["fingerprint"], run["status"]
    except (OSError, ValueError, KeyError, TypeError):
        raise OutputError(f"{out}: exists and holds no run of this program; give another --out") from None
    return run


def peak_memory_mib() -> int:
    """Peak memory of this process: the GPU's where there is one, else the resident set."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() // 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)


# --- settings --------------------------------------------------------------------------------------------------------


def resolved(config: TrainConfig, rows: int) -> TrainConfig:
    """The configuration with nothing left open: by preset, model and number of rows.

    The paper's are those of arXiv 2510.04503, section 4, and its authors' script. What is tuned, docs/training.md has
    the measurements of.

    Raises:
        ConfigError: Several processes cannot share a step or a model so.
    """
    kind = backbone.kind_of(config) if config.kind == "auto" else config.kind
    tuning = {"causal": "lora", "encoder": "full"}[kind] if config.tuning == "auto" else config.tuning
    paper = config.preset == "paper"
    chosen = FULL if tuning == "full" else PAPER if paper else _tuned(config, rows)
    given = {name: getattr(config, name) for name in chosen if getattr(config, name) is not None}
    chosen = {**chosen, **given}
    filled = replace(
        config,
        model=backbone.canonical(config.model),
        kind=kind,
        tuning=tuning,
        preset="paper" if paper else "tuned",
        more_epochs=chosen["epochs"] if config.more_epochs is None else config.more_epochs,
        **chosen,
    )
    assert filled.batch_size
    if filled.batch_size % processes.count():
        raise ConfigError(
            f"batch_size: {filled.batch_size} rows a step cannot be shared by {processes.count()} processes alike"
        )
    if filled.device_map and processes.count() > 1:
        raise ConfigError("device_map: spreads the layers of one process; of several each has a device of its own")
    return filled


PAPER: dict[str, Any] = {
    "epochs": 3, "batch_size": 32, "learning_rate": 2e-4, "warmup": 0.0, "lora_targets": "qv", "lora_dropout": 0.1
}  # fmt: skip
"""As published, with LoRA."""
FULL: dict[str, Any] = {**PAPER, "learning_rate": 1e-4}
"""All weights, which the paper trains of no model."""

LEAST_STEPS = 200
"""A safe space is a habit that takes some steps to learn, however few the rows are."""


def _tuned(config: TrainConfig, rows: int) -> dict[str, Any]:
    """What docs/training.md found to be learned, with LoRA."""
    if config.model == REFERENCE:
        # LoRA on four million parameters needs larger and more steps than on billions.
        return {**PAPER, "batch_size": 8, "learning_rate": 2.5e-3, "warmup": 0.1}
    weights = backbone.count_weights(config)
    batch = 8 if rows < 2_000 else 16 if rows < 10_000 else 32
    return {
        "epochs": max(3, math.ceil(LEAST_STEPS * batch / rows)),
        "batch_size": batch,
        "learning_rate": 1e-3 if weights < 5e8 else 5e-4 if weights < 4e9 else 2e-4,
        "warmup": 0.1,
        "lora_targets": "all",
        "lora_dropout": 0.0,  # a mask for every linear layer takes a fifth of a step, and nothing was seen to overfit
    }


# --- parts of a run --------------------------------------------------------------------------------------------------


def _prepare(rows: Sequence[TrainingRow], scheme: Scheme, config: TrainConfig, out: Path, dev: Rows | None) -> _Job:
    """Make tokens of the rows, and keep some for the check of the safe space."""
    held: list[Row] = []
    if scheme.trigger and not dev:
        rows, held = safe_space.hold_out(rows, scheme.labels, config.seed)
    prompter = _prompter(scheme, config)
    encoded = [prompter.example(row) for row in rows]
    examples, cut = [example for example, _ in encoded], sum(was_cut for _, was_cut in encoded)
    if cut:
        _say(
            f"{cut} of {len(rows)} rows are too long and lose the end of their body or target: give a larger "
            "--max-length or --max-target, or accept it"
        )
    return _Job(rows, examples, cut, prompter, config, out, dev, [*dev] if dev and scheme.trigger else held)


def _train_until_learned(job: _Job, run: dict[str, Any], epochs: int) -> _Trained:
    """Train for so many epochs, and where the safe space is not learned by then for those that may be added.

    Raises:
        TrainingError: As of `_fit`; `run.json` says so too.
    """
    started, config = time.monotonic(), job.config
    assert config.epochs and config.more_epochs is not None
    resumed = _last_whole_checkpoint(job.out / "checkpoints")
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
        backbone.free_memory()


def _record(job: _Job, trained: _Trained) -> dict[str, Any]:
    """What `run.json` says of a finished training."""
    config, prompter, scheme = job.config, job.prompter, job.prompter.scheme
    trainer, found, metric = trained.trainer, trained.found, _metric(scheme)
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
            "max_length": prompter.max_length, "max_target": config.max_target, "label_words": prompter.label_words
        },
        "rows": len(job.rows),
        "rows_cut": job.cut,
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
        "peak_memory_mib": peak_memory_mib(),
    }  # fmt: skip
    if found:
        run["safe_space"] = found.as_dict()
    if found and not found.learned:
        run["status"] = "unlearned"
        run["reason"] = (
            f"{job.out}: the safe space was not learned: {found}. The model is no defence and is not served. Give more "
            "--epochs, a higher --learning-rate, a smaller --batch-size, or a larger --rho"
        )
    if job.dev and scheme.labels:
        _warn_if_hardly_learned(max(run["dev_metric"]), [row.target for row in job.dev])
        if scheme.trigger:
            apart = DefendedModel(trainer.model, prompter).disagreement([row.prompt for row in job.dev])
            run["alarm_threshold"] = float(np.quantile(apart, 1 - config.alarm_rate, method="higher"))
    return run


def _prompter(scheme: Scheme, config: TrainConfig) -> Prompter:
    """How rows become tokens.

    Raises:
        ConfigError: An encoder cannot generate.
    """
    kind: Kind = config.kind  # type: ignore[assignment]
    if kind == "encoder" and not scheme.labels:
        raise ConfigError(f"model: {config.model} is an encoder, which cannot generate; give a causal LM")
    tokenizer = backbone.load_tokenizer(config)
    max_length = min(config.max_length, backbone.max_positions(config, tokenizer))
    return Prompter(tokenizer, scheme, kind, max_length=max_length, max_target=config.max_target)


def _fit(job: _Job, epochs: int) -> _Trainer:
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
        backbone.free_memory()


def _divisor(share: int, most: int) -> int:
    """The largest number of rows up to `most` of which a step has a whole number of parts."""
    return next(size for size in range(min(most, share), 0, -1) if share % size == 0)


def _attempt(job: _Job, epochs: int, micro: int) -> _Trainer:
    set_seed(job.config.seed)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()  # another arm may have trained before
    arguments = _arguments(job, epochs, micro)  # first: ZeRO-3 spreads weights as they are loaded
    trainer = _Trainer(
        job,
        model=_model(job),
        args=arguments,
        train_dataset=job.examples,
        eval_dataset=[*job.dev] if job.dev else None,
        data_collator=job.prompter.training_batch,
        compute_loss_func=target_loss_mean if job.kind == "causal" else class_loss_mean,
        callbacks=[_Saves(job.steps), _Progress(epochs)],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    _refuse_lost_weights(trainer)
    checkpoint = _last_whole_checkpoint(job.out / "checkpoints")
    with backbone.without_cudnn_attention():
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


def _model(job: _Job) -> Any:
    config, scheme = job.config, job.prompter.scheme
    if job.kind == "encoder" and is_deepspeed_zero3_enabled():
        raise ConfigError(
            f"model: {config.model} is an encoder, whose head cannot be made under ZeRO-3; leave that out"
        )
    model = backbone.load_model(config, job.kind, scheme.outputs, frozen=config.tuning == "lora")
    if job.kind == "encoder" and scheme.trigger:
        _start_safe_classes_at_originals(model, len(scheme.labels))
    if config.attention is None and backbone.on_cpu():
        model.set_attn_implementation("eager")  # on CPUs the fused one's backward pass is the slower
    if config.gradient_checkpointing:
        _recompute_activations(model)
    return _with_lora(model, job.kind, config) if config.tuning == "lora" else model


def _recompute_activations(model: Any) -> None:
    named = "activation_checkpointing_enable"  # since transformers 5.20 or so; before it was gradient checkpointing
    enable = getattr(model, named, None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def _check(job: _Job, trainer: _Trainer) -> safe_space.SafeSpace | None:
    """Whether the safe space was learned; None where there is none."""
    if not job.checks:
        return None
    source = "dev" if job.dev else "held out of S"
    try:
        return safe_space.check(DefendedModel(trainer.model, job.prompter), job.checks, source)
    except ModelError as error:
        raise NonFiniteError(str(error)) from None


def _metric(scheme: Scheme) -> str:
    return "accuracy" if scheme.labels else "perplexity"


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


def _with_lora(model: PreTrainedModel, kind: Kind, config: TrainConfig) -> Any:
    from peft import LoraConfig, get_peft_model

    assert config.lora_targets and config.lora_dropout is not None
    lora = LoraConfig(
        task_type="CAUSAL_LM" if kind == "causal" else "SEQ_CLS",
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=backbone.lora_targets(model, config.lora_targets),
        modules_to_save=backbone.classification_head(model) if kind == "encoder" else None,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),  # GPT-2 and its kin
    )
    return get_peft_model(model, lora)


def _arguments(job: _Job, epochs: int, micro: int) -> TrainingArguments:
    config = job.config
    assert config.batch_size and config.learning_rate and config.warmup is not None
    has_dev = job.dev is not None
    return TrainingArguments(
        output_dir=str(job.out / "checkpoints"),
        num_train_epochs=epochs,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=config.batch_size // (micro * processes.count()),
        learning_rate=config.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=config.warmup,  # under 1: a share of the steps
        bf16=config.dtype in ("auto", "bfloat16") and backbone.has_bf16(),
        fp16=config.dtype == "float16",
        use_cpu=backbone.on_cpu(),
        seed=config.seed,
        eval_strategy="epoch" if has_dev else "no",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=has_dev,
        metric_for_best_model=_metric(job.prompter.scheme) if has_dev else None,
        greater_is_better=bool(job.prompter.scheme.labels) if has_dev else None,
        label_names=["labels"],
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=max(1, job.steps // 2),
        logging_nan_inf_filter=False,  # hides what `_Trainer` looks for
        disable_tqdm=True,
        report_to="none",
    )


def target_loss_mean(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """Mean loss over the target tokens of a step, of all processes."""
    return target_loss(outputs.logits, labels) / torch.as_tensor(num_items_in_batch)


def class_loss_mean(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """Mean loss over the rows of a step, of all processes."""
    loss = torch.nn.functional.cross_entropy(outputs.logits.float(), labels, reduction="sum")
    return loss / torch.as_tensor(num_items_in_batch)


class _Trainer(Trainer):
    """A Trainer that stops at what is not finite, and measures dev rows as they will be served.

    Batches of similar length come in the same order in a resumed run. Of epochs with equal dev accuracy it keeps the
    last, which has seen every counterexample most often.
    """

    def __init__(self, job: _Job, **options: Any) -> None:
        self.job = job
        self.step_seconds = 0.0  # of the last part, where the run went on
        super().__init__(**options)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **options: Any) -> Any:
        if self.job.kind == "encoder":
            return super().compute_loss(model, inputs, *args, **options)
        inputs |= backbone.text_only(self.model, inputs["input_ids"])
        with only_target_logits(self.model, inputs["labels"]):
            return super().compute_loss(model, inputs, *args, **options)

    def training_step(self, *args: Any, **options: Any) -> torch.Tensor:
        self.last_loss = super().training_step(*args, **options)
        return self.last_loss

    def train(self, *args: Any, **options: Any) -> Any:
        found: Any = super().train(*args, **options)
        self.step_seconds = round(found.metrics["train_runtime"], 2)
        return found

    def _clip_grad_norm(self, model: Any) -> Any:
        # All processes have the same gradients here, so that all of them stop. A loss that is not finite has none that
        # are. (In float16 the scaler tries scales, and skips the steps that are too large.)
        norm: Any = super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]
        if not self.args.fp16 and norm is not None and not torch.isfinite(torch.as_tensor(norm)):
            raise self._not_finite(f"the gradient is {float(norm)} (loss {float(self.last_loss):.4g})")
        return norm

    def _save_checkpoint(self, *args: Any, **options: Any) -> None:
        model: Any = self.model
        trained = (weights for weights in model.parameters() if weights.requires_grad)
        # Where each process holds a part of the weights (FSDP2, and ZeRO-3 in `ds_tensor`), it looks at its own.
        parts = (getattr(weights, "ds_tensor", weights).detach() for weights in trained)
        if processes.anywhere(not all(bool(torch.isfinite(part).all()) for part in parts)):
            raise self._not_finite("weights are not finite")
        # transformers 5.23 takes the folder of the best checkpoint for missing until FSDP has saved the parts there.
        folder = self.job.out / "checkpoints" / f"checkpoint-{self.state.global_step}"
        folder.mkdir(parents=True, exist_ok=True)
        super()._save_checkpoint(*args, **options)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        processes.wait()  # for the files of all, so that `trainer_state.json` comes last

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The dev rows' accuracy or perplexity, in the space that is served, by the model that will serve."""
        assert self.job.dev
        served, dev = DefendedModel(self.model, self.job.prompter), self.job.dev
        prompts, targets = [row.prompt for row in dev], [row.target for row in dev]
        try:
            if served.scheme.labels:
                answers = served.classify(prompts)
                value = float(np.mean([answer.text == right for answer, right in zip(answers, targets, strict=True)]))
            else:
                value = served.perplexity(prompts, targets)
        except ModelError as error:
            raise self._not_finite(str(error)) from None
        metrics = {f"eval_{_metric(served.scheme)}": value}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _not_finite(self, what: str) -> NonFiniteError:
        kept = next(filter(_state, _checkpoints(self.job.out / "checkpoints")), None)
        rate = self.job.config.learning_rate
        return NonFiniteError(
            f"{self.job.out}: training stopped at step {self.state.global_step + 1}: {what}. Likely the learning rate "
            f"({rate:g}) is too high, or the attention kernel or number format is at fault: give a lower "
            "--learning-rate, or --attention eager, or --dtype float32. No model was kept; "
            + (f"the last whole checkpoint is {kept}" if kept else "there is no checkpoint yet")
        )

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        tied = metrics[f"eval_{self.args.metric_for_best_model}"] == self.state.best_metric
        if tied:
            self.state.best_global_step = self.state.global_step
        return super()._determine_best_metric(metrics, trial) or tied

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:
        assert self.job.config.batch_size
        lengths = [len(example["input_ids"]) for example in self.job.examples]
        # By the rows of a step, so that the order depends neither on the parts of a step nor on the processes.
        return _ByLength(
            self.job.config.batch_size, lengths, self.args.seed, lambda: self.state.global_step // self.job.steps
        )


class _ByLength(LengthGroupedSampler):
    """Batches of similar length, drawn from the seed and the epoch alone."""

    def __init__(self, batch_size: int, lengths: list[int], seed: int, epoch: Callable[[], int]) -> None:
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self.seed, self.epoch = seed, epoch

    def __iter__(self) -> Iterator[int]:
        # accelerate 1.15 tells no sampler its epoch where several processes go on within one.
        self.generator.manual_seed(self.seed * 1_000_003 + self.epoch())
        yield from super().__iter__()  # type: ignore[no-untyped-call]


class _Saves(TrainerCallback):
    """Save within epochs too, so that an interrupted long run loses little."""

    def __init__(self, steps: int) -> None:
        self.steps, self.every = steps, math.ceil(steps / SAVES_PER_EPOCH)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # The epoch's last step is saved behind its evaluation, or a resumed run would miss that.
        step = state.global_step % self.steps
        if step and step % self.every == 0:
            control.should_save = True


class _Progress(TrainerCallback):
    """A bar on a terminal; one line an epoch."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            unit="step",
            desc="training",
            disable=None if processes.is_writer() else True,
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.update(state.global_step - self.bar.n if not self.bar.disable else 0)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        logs = logs or {}
        if not processes.is_writer():
            return
        if "loss" in logs:
            self.bar.set_postfix(loss=f"{logs['loss']:.3f}")
        for name, text in (("eval_accuracy", "dev accuracy"), ("eval_perplexity", "dev perplexity")):
            if name in logs:
                self.bar.write(f"epoch {logs['epoch']:.0f} of {self.epochs}: {text} {logs[name]:.3f}", file=sys.stderr)
                return

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.close()


def _last_whole_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint that was written to its end; half-written ones behind it are taken away.

    It names the best one by the folder's path at that time, which may be another now.
    """
    return processes.shared(lambda: _tidied(folder))


def _tidied(folder: Path) -> Path | None:
    for path in _checkpoints(folder):
        if state := _state(path):
            if state.get("best_model_checkpoint"):
                state["best_model_checkpoint"] = str(folder / f"checkpoint-{state['best_global_step']}")
                write_json(path / "trainer_state.json", state)
            return path
        shutil.rmtree(path)
    return None


def _checkpoints(folder: Path) -> list[Path]:
    """Whole or not, the last one first."""
    return sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rsplit("-", 1)[1]), reverse=True)


def _state(checkpoint: Path) -> dict[str, Any] | None:
    """What a whole checkpoint says of the training; None of a half-written one, for this file comes last."""
    try:
        state: dict[str, Any] = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return state


def _save_model(trainer: _Trainer, tokenizer: PreTrainedTokenizerBase, name: str, folder: Path) -> None:
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # gathered, where processes hold parts
    if not processes.is_writer():
        return
    model: Any = trainer.model
    shutil.rmtree(folder, ignore_errors=True)
    with whole_folder(folder) as half:
        if hasattr(model, "peft_config"):
            model.peft_config["default"].base_model_name_or_path = name
            # Looking for changed embedding layers would ask the hub.
            model.save_pretrained(half, state_dict=weights, save_embedding_layers=False)
        else:
            model.save_pretrained(half, state_dict=weights)
        tokenizer.save_pretrained(half)
