"""Fine-tune on re-poisoned rows, with the benign trigger as a prompt, and leave a folder that says what it holds.

    OUT/model/           LoRA adapter, or all weights, in safetensors, with the tokenizer
    OUT/scheme.json      the scheme: a secret
    OUT/manifest.jsonl   what was done to which row
    OUT/run.json         versions, seeds, configuration, data hashes, times, peak memory

The folder belongs to one run: the same command goes on where it was interrupted, or finds itself done.
"""

from __future__ import annotations

import json
import logging
import math
import resource
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.pytorch_utils import Conv1D
from transformers.trainer_pt_utils import LengthGroupedSampler

from poison2poison.config import REFERENCE, TrainConfig
from poison2poison.errors import ConfigError, OutputError
from poison2poison.files import fingerprint, versions, whole_folder, write_json, write_lines
from poison2poison.model import backbone
from poison2poison.model.defended import DefendedModel
from poison2poison.model.prompting import Kind, Prompter
from poison2poison.records import Rows
from poison2poison.repoison import TrainingRow, manifest
from poison2poison.scheme import Scheme

SCHEMA = 1
SAVES_PER_EPOCH = 4
LEARNING_RATES = {"lora": 2e-4, "full": 1e-4}
BATCH_SIZE = 32
# LoRA on four million parameters needs larger and more steps than on billions.
REFERENCE_LEARNING_RATE = 2.5e-3
REFERENCE_BATCH_SIZE = 8
# Without it some seeds of the reference model learn the safe space in the last epoch or not at all.
LORA_WARMUP = 0.1  # of the steps
UNLEARNED = 0.2
"""A safe space that comes at most so much of the way from the largest class's share to 1 counts as not learned."""

logger = logging.getLogger(__name__)


def train(
    rows: Sequence[TrainingRow],
    scheme: Scheme,
    config: TrainConfig,
    out: Path,
    *,
    dev: Rows | None = None,
    about: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Fine-tune, or go on with the run that `out` holds.

    Args:
        rows: What `repoison` made, or `plain` rows where `scheme` has no trigger.
        scheme: The scheme of these rows.
        config: The training configuration.
        out: The artifact folder.
        dev: Clean rows, on which the best epoch is chosen (accuracy, or loss of generated targets, in the serving
            space); without them the last one is kept.
        about: Where the rows come from, for `run.json`.

    Returns:
        The content of `run.json`.

    Raises:
        OutputError: The folder holds something else.
        ModelError: The base model cannot be used.
        ConfigError: Kind, task and lengths do not fit together.
    """
    config = _resolved(config)
    identity = {
        "config": asdict(config),
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

    # 1. The base model, and how its rows become tokens.
    set_seed(config.seed)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()  # another arm may have trained before
    kind: Kind = config.kind  # type: ignore[assignment]
    assert config.batch_size
    if kind == "encoder" and not scheme.labels:
        raise ConfigError(f"model: {config.model} is an encoder, which cannot generate; give a causal LM")
    tokenizer = backbone.load_tokenizer(config.model)
    model = backbone.load_model(config.model, kind, scheme.outputs, frozen=config.tuning == "lora")
    if kind == "encoder" and scheme.trigger:
        _start_safe_classes_at_originals(model, len(scheme.labels))
    if not torch.cuda.is_available():
        model.set_attn_implementation("eager")  # on CPUs the fused one's backward pass is the slower
    max_length = min(config.max_length, backbone.max_positions(model, tokenizer))
    prompter = Prompter(tokenizer, scheme, kind, max_length=max_length, max_target=config.max_target)
    encoded = [prompter.example(row) for row in rows]
    examples = [example for example, _ in encoded]
    served = [TrainingRow(i, scheme.serving_space, "keep", row.prompt, row.target) for i, row in enumerate(dev or ())]
    checks = [prompter.example(row)[0] for row in served]
    if config.tuning == "lora":
        model = _with_lora(model, kind, config)

    # 2. The folder is ours from here on; it appears with all that a resumed run needs.
    if not before:
        with whole_folder(out) as folder:
            scheme.save(folder / "scheme.json")
            write_lines(folder / "manifest.jsonl", manifest(rows, scheme))
            write_json(folder / "run.json", run)

    # 3. Train.
    started = time.monotonic()
    steps = math.ceil(len(examples) / (config.batch_size * config.accumulate))  # of an epoch
    metric = "accuracy" if scheme.labels else "loss"
    trainer = _Trainer(
        model=model,
        args=_arguments(config, out, steps, best_by=metric if checks else None),
        train_dataset=examples,
        eval_dataset=checks or None,
        data_collator=prompter.collate,
        compute_metrics=_accuracy if scheme.labels else None,
        preprocess_logits_for_metrics=_right_answers(prompter) if scheme.labels else None,
        callbacks=[_Saves(steps), _Progress(config.epochs)],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    checkpoint = _last_whole_checkpoint(out / "checkpoints")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    # 4. Keep the chosen weights, and say what was done.
    _save_model(trainer.model, tokenizer, config.model, out / "model")
    history = trainer.state.log_history
    run |= {
        "status": "done",
        "versions": versions(),
        "kind": kind,
        "tuning": config.tuning,
        "config": asdict(config),
        "data": about or {},
        "dev": {"source": dev.source, "sha256": dev.sha256, "rows": len(dev)} if dev else None,
        "prompting": {"max_length": max_length, "max_target": config.max_target, "label_words": prompter.label_words},
        "rows": len(rows),
        "rows_cut": sum(cut for _, cut in encoded),
        "loss": [entry["loss"] for entry in history if "loss" in entry],
        "dev_metric": [entry[f"eval_{metric}"] for entry in history if f"eval_{metric}" in entry],
        "chosen_step": trainer.state.best_global_step or trainer.state.global_step,
        "steps": trainer.state.global_step,
        "resumed_from": int(checkpoint.name.rsplit("-", 1)[1]) if checkpoint else None,
        "train_seconds": round(time.monotonic() - started, 1),
        "peak_memory_mib": peak_memory_mib(),
    }  # fmt: skip
    if dev and scheme.labels:
        _warn_if_unlearned(dev, run["dev_metric"])
        if scheme.trigger:
            apart = DefendedModel(trainer.model, prompter).disagreement([row.prompt for row in dev])
            run["alarm_threshold"] = float(np.quantile(apart, 1 - config.alarm_rate, method="higher"))
    write_json(out / "run.json", run)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
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


# --- parts of a run --------------------------------------------------------------------------------------------------


def _resolved(config: TrainConfig) -> TrainConfig:
    """The configuration with all that depends on the model filled in."""
    kind = backbone.kind_of(config.model) if config.kind == "auto" else config.kind
    tuning = {"causal": "lora", "encoder": "full"}[kind] if config.tuning == "auto" else config.tuning
    small = config.model == REFERENCE and tuning == "lora"
    return replace(
        config,
        kind=kind,
        tuning=tuning,
        batch_size=config.batch_size or (REFERENCE_BATCH_SIZE if small else BATCH_SIZE),
        learning_rate=config.learning_rate or (REFERENCE_LEARNING_RATE if small else LEARNING_RATES[tuning]),
    )


def _warn_if_unlearned(dev: Rows, accuracies: Sequence[float]) -> None:
    largest = max(Counter(row.target for row in dev).values()) / len(dev)
    if max(accuracies) <= largest + UNLEARNED * (1 - largest):
        logger.warning(
            "the space that is served was not learned: dev accuracy %.2f, the largest class's share is %.2f. "
            "Give more --epochs, a smaller --batch-size, or a larger --rho",
            max(accuracies),
            largest,
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

    lora = LoraConfig(
        task_type="CAUSAL_LM" if kind == "causal" else "SEQ_CLS",
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=backbone.lora_targets(model),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),  # GPT-2 and its kin
    )
    return get_peft_model(model, lora)


def _arguments(config: TrainConfig, out: Path, steps: int, *, best_by: str | None) -> TrainingArguments:
    assert config.batch_size and config.learning_rate
    return TrainingArguments(
        output_dir=str(out / "checkpoints"),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size * 2,
        gradient_accumulation_steps=config.accumulate,
        learning_rate=config.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=LORA_WARMUP if config.tuning == "lora" else 0,
        bf16=backbone.has_bf16(),
        use_cpu=not torch.cuda.is_available(),
        seed=config.seed,
        eval_strategy="epoch" if best_by else "no",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=best_by is not None,
        metric_for_best_model=best_by,
        label_names=["labels"],
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=max(1, steps // 2),
        disable_tqdm=True,
        report_to="none",
    )


class _Trainer(Trainer):
    """A Trainer whose batches of similar length come in the same order in a resumed run.

    Of epochs with equal dev accuracy it keeps the last, which has seen every counterexample most often.
    """

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        tied = metrics[f"eval_{self.args.metric_for_best_model}"] == self.state.best_metric
        if tied:
            self.state.best_global_step = self.state.global_step
        return super()._determine_best_metric(metrics, trial) or tied

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:
        examples: Any = self.train_dataset
        lengths = [len(example["input_ids"]) for example in examples]
        return _ByLength(self.args.train_batch_size, lengths=lengths, seed=self.args.seed)


class _ByLength(LengthGroupedSampler):
    """Batches of similar length, drawn from the seed and the epoch alone."""

    def __init__(self, batch_size: int, lengths: list[int], seed: int) -> None:
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate before each epoch."""
        self.generator.manual_seed(self.seed * 1_000_003 + epoch)


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
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", desc="training", disable=None)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.update(state.global_step - self.bar.n if not self.bar.disable else 0)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        logs = logs or {}
        if "loss" in logs:
            self.bar.set_postfix(loss=f"{logs['loss']:.3f}")
        for name, text in (("eval_accuracy", "dev accuracy"), ("eval_loss", "dev loss")):
            if name in logs:
                self.bar.write(f"epoch {logs['epoch']:.0f} of {self.epochs}: {text} {logs[name]:.3f}", file=sys.stderr)
                return

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.close()


def _accuracy(found: Any) -> dict[str, float]:
    return {"accuracy": float(found.predictions.mean())}


def _right_answers(prompter: Prompter) -> Any:
    """For dev rows: whether the best label of the serving space is the right one, shape (batch,)."""
    first = len(prompter.scheme.labels) * (prompter.scheme.serving_space == "safe")

    def right(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if prompter.kind == "encoder":
            return (logits[:, first:].argmax(-1) + first == labels).float()
        serving = torch.tensor(prompter.label_ids[first:], device=logits.device)
        # Positions: the last but one predicts the label, which stands in the last.
        return (serving[logits[:, -2, serving].argmax(-1)] == labels[:, -1]).float()

    return right


def _last_whole_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint that was written to its end: `trainer_state.json` comes last.

    It names the best one by the folder's path at that time, which may be another now.
    """
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rsplit("-", 1)[1]), reverse=True)
    for path in found:
        try:
            state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            shutil.rmtree(path)
        else:
            if state.get("best_model_checkpoint"):
                state["best_model_checkpoint"] = str(folder / f"checkpoint-{state['best_global_step']}")
                write_json(path / "trainer_state.json", state)
            return path
    return None


def _save_model(model: Any, tokenizer: Any, name: str, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with whole_folder(folder) as half:
        if hasattr(model, "peft_config"):
            model.peft_config["default"].base_model_name_or_path = name
            model.save_pretrained(half, save_embedding_layers=False)  # looking for changed ones would ask the hub
        else:
            model.save_pretrained(half)
        tokenizer.save_pretrained(half)
