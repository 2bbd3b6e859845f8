"""The training loop: transformers' Trainer, which here stops at what is not finite, and its checkpoints."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from poison2poison.errors import ModelError, NonFiniteError, OutputError, P2PError
from poison2poison.files import write_json, writing
from poison2poison.model import backbone, hardware, processes
from poison2poison.model.job import Job
from poison2poison.model.loss import only_target_logits, target_loss
from poison2poison.recipe.scheme import Scheme

SAVES_PER_EPOCH = 4


class JobTrainer(Trainer):
    """A Trainer that stops at what is not finite, and measures dev rows as they will be served.

    Batches of similar length come in the same order in a resumed run. Of epochs with equal dev accuracy it keeps the
    last, which has seen every counterexample most often.
    """

    def __init__(self, job: Job, **options: Any) -> None:
        self.job = job
        self.step_seconds = 0.0  # of the last part, where the run went on
        self.step_loss = torch.zeros(())  # of the parts of a step
        super().__init__(**options)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **options: Any) -> Any:
        if self.job.kind == "encoder":
            return super().compute_loss(model, inputs, *args, **options)
        inputs |= backbone.text_only(self.model, inputs["input_ids"])
        with only_target_logits(self.model, inputs["labels"]):
            return super().compute_loss(model, inputs, *args, **options)

    def training_step(self, *args: Any, **options: Any) -> torch.Tensor:
        loss = super().training_step(*args, **options)
        self.step_loss = self.step_loss.to(loss.device) + loss
        return loss

    def train(self, *args: Any, **options: Any) -> Any:
        found: Any = super().train(*args, **options)
        self.step_seconds = round(found.metrics["train_runtime"], 2)
        return found

    def _clip_grad_norm(self, model: Any) -> Any:
        # All processes have the same gradients here, so that all of them stop. A loss that is not finite has none that
        # are.
        norm: Any = super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]
        loss, self.step_loss = self.step_loss, torch.zeros(())
        if norm is None or bool(torch.isfinite(torch.as_tensor(norm))):
            return norm
        # In float16 the scaler tries scales, and skips steps that are too large: there the loss alone tells.
        if self.args.fp16 and not processes.anywhere(not bool(torch.isfinite(loss))):
            return norm
        raise self._not_finite(f"the gradient is {float(norm)} (loss {float(loss):.4g})")

    def _save_checkpoint(self, *args: Any, **options: Any) -> None:
        model: Any = self.model
        trained = (weights for weights in model.parameters() if weights.requires_grad)
        # Where each process holds a part of the weights (FSDP2, and ZeRO-3 in `ds_tensor`), it looks at its own.
        parts = (getattr(weights, "ds_tensor", weights).detach() for weights in trained)
        if processes.anywhere(not all(bool(torch.isfinite(part).all()) for part in parts)):
            raise self._not_finite("weights are not finite")
        # transformers 5.23 takes the folder of the best checkpoint for missing until FSDP has saved the parts there.
        folder = self.job.checkpoints / f"checkpoint-{self.state.global_step}"
        try:
            with saving(folder):
                folder.mkdir(parents=True, exist_ok=True)
                super()._save_checkpoint(*args, **options)
        except OutputError:
            shutil.rmtree(folder, ignore_errors=True)  # makes room for the same command to go on
            raise

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        processes.wait()  # for the files of all, so that `trainer_state.json` comes last

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The dev rows' accuracy or perplexity, in the space that is served, by the model that will serve."""
        assert self.job.dev
        served, dev = self.job.served(self.model), self.job.dev
        prompts, targets = [*dev], [row.target for row in dev]
        try:
            if served.scheme.labels:
                answers = served.classify(prompts)
                value = float(np.mean([answer.text == right for answer, right in zip(answers, targets, strict=True)]))
            else:
                value = served.perplexity(prompts, targets)
        except ModelError as error:
            raise self._not_finite(str(error)) from None
        metrics = {f"eval_{metric_of(served.scheme)}": value}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _not_finite(self, what: str) -> NonFiniteError:
        kept = next(filter(_state, _checkpoints(self.job.checkpoints)), None)
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
        return ByLength(
            self.job.config.batch_size, lengths, self.args.seed, lambda: self.state.global_step // self.job.steps
        )


class ByLength(LengthGroupedSampler):
    """Batches of similar length, drawn from the seed and the epoch alone."""

    def __init__(self, batch_size: int, lengths: list[int], seed: int, epoch: Callable[[], int]) -> None:
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self.seed, self.epoch = seed, epoch

    def __iter__(self) -> Iterator[int]:
        # accelerate 1.15 tells no sampler its epoch where several processes go on within one.
        self.generator.manual_seed(self.seed * 1_000_003 + self.epoch())
        yield from super().__iter__()  # type: ignore[no-untyped-call]


def arguments_of(job: Job, epochs: int, micro: int) -> TrainingArguments:
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
        bf16=config.dtype in ("auto", "bfloat16") and hardware.has_bf16(),
        fp16=config.dtype == "float16",
        use_cpu=hardware.on_cpu(),
        seed=config.seed,
        eval_strategy="epoch" if has_dev else "no",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=has_dev,
        metric_for_best_model=metric_of(job.prompter.scheme) if has_dev else None,
        greater_is_better=bool(job.prompter.scheme.labels) if has_dev else None,
        label_names=["labels"],
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_strategy="epoch",
        logging_nan_inf_filter=False,  # hides what `JobTrainer` looks for
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


def metric_of(scheme: Scheme) -> str:
    return "accuracy" if scheme.labels else "perplexity"


class Saves(TrainerCallback):
    """Save within epochs too, so that an interrupted long run loses little.

    Where it saves it logs, or the mean loss that a resumed run logs next would miss the steps before.
    """

    def __init__(self, steps: int) -> None:
        self.steps, self.every = steps, math.ceil(steps / SAVES_PER_EPOCH)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # The epoch's last step is saved behind its evaluation, or a resumed run would miss that.
        step = state.global_step % self.steps
        if step and step % self.every == 0:
            control.should_save = control.should_log = True


class Progress(TrainerCallback):
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


@contextmanager
def saving(folder: Path) -> Iterator[None]:
    """Say that a model cannot be written; each library has an error of its own for a full disk, and some any exception.

    Raises:
        OutputError: It cannot be written.
    """
    try:
        with writing(folder):
            yield
    except (P2PError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise OutputError(f"{folder}: cannot be written ({error}); is the disk full?") from error


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint that was written to its end; half-written ones behind it are taken away.

    It names the best one by the folder's path at that time, which may be another now.
    """
    return processes.once(lambda: _tidied(folder))


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
