"""The settings of a training that are not given: by preset, model and number of rows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from poison2poison.config import REFERENCE, TrainConfig
from poison2poison.errors import ConfigError
from poison2poison.model import backbone, hardware, processes
from poison2poison.recipe.scheme import PAPER_TRIGGER, Scheme
from poison2poison.types import ModelKind, Tuning


def with_preset(training: TrainConfig, recipe: str | None) -> TrainConfig:
    """The training of a recipe: the paper's settings for the paper's recipe, tuned ones for all else."""
    if training.preset != "auto":
        return training
    return replace(training, preset="paper" if recipe == "paper" else "tuned")


def resolved(config: TrainConfig, rows: int) -> TrainConfig:
    """The configuration with nothing left open: by preset, model and number of rows.

    The paper's are those of arXiv 2510.04503, section 4, and its authors' script. The tuned ones are those that
    docs/experiments.md has measurements of.

    Raises:
        ConfigError: Several processes cannot share a step or a model so, or nothing can be trained in float16.
    """
    kind = backbone.kind_of(config) if config.kind == "auto" else config.kind
    tuning = TUNING[kind] if config.tuning == "auto" else config.tuning
    paper = config.preset == "paper"
    chosen = FULL if tuning == "full" else PAPER if paper else _tuned(config, rows)
    given = {name: getattr(config, name) for name in chosen}
    chosen = {**chosen, **{name: value for name, value in given.items() if value is not None}}
    filled = replace(
        config,
        model=backbone.canonical(config.model),
        kind=kind,
        tuning=tuning,
        preset="paper" if paper else "tuned",
        more_epochs=chosen["epochs"] if config.more_epochs is None else config.more_epochs,
        **chosen,
    )
    _refuse_impossible(filled)
    return filled


def _refuse_impossible(config: TrainConfig) -> None:
    """Refuse settings that exclude each other, or what several processes cannot do.

    Raises:
        ConfigError: As of `resolved`.
    """
    assert config.batch_size
    if config.batch_size % processes.count():
        raise ConfigError(
            f"batch_size: {config.batch_size} rows a step cannot be shared by {processes.count()} processes alike"
        )
    if config.dtype == "float16" and (config.tuning == "full" or hardware.on_cpu()):
        raise ConfigError("dtype: float16 needs LoRA and a GPU, for its steps are scaled; give bfloat16 or float32")
    if config.device_map and processes.count() > 1:
        raise ConfigError("device_map: spreads the layers of one process; of several each has a device of its own")


def check_fit(config: TrainConfig, scheme: Scheme) -> None:
    """Refuse a scheme that a model of this kind cannot have, or a part of it that the model never reads.

    Args:
        config: With its kind known.
        scheme: The scheme to be trained.

    Raises:
        ConfigError: An encoder shall generate, or read a cue of the user's.
    """
    if config.kind != "encoder":
        return
    if not scheme.labels:
        raise ConfigError(f"model: {config.model} is an encoder, which cannot generate; give a causal LM")
    if scheme.trigger and scheme.trigger.cue != PAPER_TRIGGER.cue:
        raise ConfigError("cue: has no effect on an encoder, which reads prefix and body alone; leave it out")


TUNING: dict[ModelKind, Tuning] = {"causal": "lora", "encoder": "full"}
"""What is trained where nothing is given."""


PAPER: dict[str, Any] = {
    "epochs": 3, "batch_size": 32, "learning_rate": 2e-4, "warmup": 0.0, "lora_targets": "qv", "lora_dropout": 0.1
}  # fmt: skip
"""As published, with LoRA."""


FULL: dict[str, Any] = {**PAPER, "learning_rate": 1e-4}
"""All weights, which the paper trains of no model."""


LEAST_STEPS = 200
"""A safe space is a habit that takes some steps to learn, however few the rows are."""


def _tuned(config: TrainConfig, rows: int) -> dict[str, Any]:
    """What docs/experiments.md found to be learned, with LoRA."""
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
        "lora_dropout": 0.0,  # a mask for every linear layer takes its time
    }
