"""The vocabulary as types: what each word may be, and what a record holds. `typing.get_args` gives the legal values."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

# --- the method -------------------------------------------------------------------------------------------------------

Task = Literal["classification", "generation"]
"""Whether the targets are labels or texts."""
Space = Literal["safe", "original"]
"""Where a row is trained, and where an input is answered."""
Where = Literal["safe", "leak", "off-space"]
"""Where an unconstrained answer lies: in the safe space, in the original one, or in neither."""
Policy = Literal["flag", "refuse", "pass"]
"""Leaks and off-space answers are given out and said, not given out, or given out silently."""
Role = Literal["system", "user", "assistant", "tool"]
"""Who speaks a turn of a chat."""
FailOn = Literal["suspect", "weak", "none"]
"""The findings for which an audit ends with exit code 1: `weak` has suspect ones too."""

# --- base models and their training -----------------------------------------------------------------------------------

Auto = Literal["auto"]
"""What is not given: it follows the model, the rows or the recipe."""
ModelKind = Literal["causal", "encoder"]
"""Whether a model writes text, or is an encoder with a classification head."""
Dtype = Literal["float32", "bfloat16", "float16"]
"""Number formats of weights and products, by torch's names."""
Bits = Literal["4bit", "8bit"]
"""How base weights are quantized."""
Preset = Literal["tuned", "paper"]
"""Where the settings come from that are not given: measured, or as published."""
Tuning = Literal["lora", "full"]
"""Whether an adapter is trained or all weights."""
Adapted = Literal["qv", "all"]
"""What LoRA adapts: q_proj and v_proj, or every linear layer."""
Source = Literal["dev", "held out of S"]
"""Where the rows come from that the safe space is checked on."""
MetricName = Literal["accuracy", "exact_match", "rouge_l"]
"""What the safe space is checked by: labels, worked answers, other texts."""

# --- run.json ---------------------------------------------------------------------------------------------------------

Status = Literal["running", "done", "unlearned", "failed"]
"""How a training ended: `running` stands for one that goes on or was interrupted, `unlearned` for a safe space that
was not learned."""


class SafeSpaceRecord(TypedDict):
    """What the check of the safe space found, as of `model.safe_space.SafeSpace`."""

    source: Source
    rows: int
    metric: MetricName
    safe: float
    original: float
    leak: float
    off_space: float
    learned: bool


class DevRecord(TypedDict):
    """The clean rows that the epoch was chosen on."""

    source: str
    sha256: str
    rows: int


class PromptingRecord(TypedDict):
    """What a `Prompter` was made with, beside tokenizer and scheme."""

    max_length: int
    max_target: int
    label_words: tuple[str, ...]


class Identity(TypedDict):
    """By what a run that was begun is known."""

    schema: int
    status: Status
    fingerprint: str


class Ended(TypedDict, total=False):
    """What is added to a run's record later: a failed run has `reason`, `epochs` and `config` alone."""

    reason: str
    config: dict[str, Any]
    epochs: int
    data: dict[str, Any]
    versions: dict[str, str]
    kind: ModelKind
    tuning: Tuning
    revision: str | None
    dev: DevRecord | None
    prompting: PromptingRecord
    rows: int
    rows_cut: int
    max_length: int
    loss: list[float]
    dev_metric: list[float]
    chosen_step: int
    steps: int
    processes: int
    micro_batch: int
    resumed_from: int | None
    tokens: int
    step_seconds: float
    train_seconds: float
    peak_memory_mib: int | None
    safe_space: SafeSpaceRecord
    alarm_threshold: float
    files: dict[str, str]


class RunRecord(Identity, Ended):
    """The content of `run.json`."""
