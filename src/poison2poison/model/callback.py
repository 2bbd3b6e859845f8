"""Watch the safe space in another trainer: TRL, Axolotl, Unsloth and LLaMA-Factory take callbacks of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback

from poison2poison.config import ModelConfig, TrainConfig
from poison2poison.data import Row
from poison2poison.export.record import read_export
from poison2poison.model import alarm, backbone, safe_space
from poison2poison.model.defended import DefendedModel
from poison2poison.model.prompting import Prompter


class SafeSpaceCallback(TrainerCallback):
    """At every evaluation, or every epoch where there is none, answers dev rows in both spaces and logs how that went.

    The figures are `eval_safe_accuracy` and `eval_original_accuracy` (or `exact_match`, `rouge_l`), `eval_leak`,
    `eval_off_space`, `eval_learned` (1 or 0), `eval_disagreement` (mean over the rows) and `eval_alarm_threshold`.
    They are among the metrics that `metric_for_best_model` may name.

    The whole model must be in each process: FSDP and ZeRO-3 spread it.
    """

    def __init__(self, export: str | Path, dev: Sequence[Row], trainer: Trainer | None = None) -> None:
        """Watch a training on an export.

        Args:
            export: The folder of `p2p export`.
            dev: Clean rows that are not trained on; at most 100 are answered.
            trainer: Whose loggers are told; without it the figures are in `state.log_history` alone.

        Raises:
            DataError: The folder holds no export.
            SchemeError: Its scheme is missing or another.
            ModelError: The base model's tokenizer cannot be loaded.
        """
        folder = Path(export)
        exported = read_export(folder / "scheme.json", folder / "manifest.jsonl")
        record = exported.record
        tokenizer = backbone.load_tokenizer(ModelConfig(record["model"], revision=record["revision"]))
        self.prompter = Prompter(tokenizer, exported.scheme, "causal", **record["prompting"])
        self.dev, self.trainer = dev, trainer

    def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Measure, and add to the evaluation's metrics."""
        given["metrics"].update(self._told(given["model"], state))

    def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Measure where the trainer has no rows of its own to evaluate."""
        if args.eval_strategy == "no":
            self._told(given["model"], state)

    def _told(self, model: Any, state: Any) -> dict[str, float]:
        training = model.training
        figures = self.measure(model)
        model.train(training)  # to answer, it is put into evaluation
        if self.trainer:
            self.trainer.log(dict(figures))
        else:
            state.log_history.append({**figures, "epoch": state.epoch, "step": state.global_step})
        return figures

    def measure(self, model: Any) -> dict[str, float]:
        """The figures of a model as it is now.

        Raises:
            ModelError: Its outputs are not finite.
        """
        served = DefendedModel(model, self.prompter)
        found = safe_space.check(served, self.dev, "dev")
        figures = {
            f"eval_safe_{found.metric}": found.safe,
            f"eval_original_{found.metric}": found.original,
            "eval_leak": found.leak,
            "eval_off_space": found.off_space,
            "eval_learned": float(found.learned),
        }
        apart = safe_space.disagreement(served, self.dev)
        figures["eval_disagreement"] = sum(apart) / len(apart)
        figures["eval_alarm_threshold"] = alarm.threshold(apart, TrainConfig().alarm_rate)
        return figures
