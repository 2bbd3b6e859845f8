"""Configuration: one frozen dataclass a stage is the only home of its options, their defaults and their help.

`DataConfig` and `RepoisonConfig` stand beside their stages; `AuditConfig` and `TrainConfig` stand here, away from
scikit-learn and torch, so that the command line can show their help at once.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar, get_args

from poison2poison.errors import ConfigError, told
from poison2poison.types import Adapted, Auto, Bits, Dtype, FailOn, ModelKind, Preset, Tuning

Made = TypeVar("Made", bound=Any)
REFERENCE = "reference"
"""The name of the model that comes with the package."""


def option(default: Any, explained: str, *, secret: bool = False) -> Any:
    """A field of a configuration, with the help that the command line shows; a secret one is never printed."""
    return field(default=default, metadata={"help": explained}, repr=not secret)


@dataclass(frozen=True)
class AuditConfig:
    """How rows are audited."""

    min_rows: int = option(10, "Rows that must hold a span for it to be suspect by itself; half of them beside others.")
    false_alarm: float = option(
        0.05, "Odds that innocent rows have a suspect span, and chance that they have a suspect style."
    )
    finders: str = option(
        "all",
        "Finders that look, in this order, with commas between them; `all` that are known. Options of one stand behind "
        "its name: `spans:asked=16:controls=12`.",
    )
    measures: str = option(
        "", "How prompts and answers are measured for all finders: `name=value`, with commas between them."
    )
    audit_model: str | None = option(
        None,
        "Folder or hub name of another model whose states the audit reads, such as a small encoder of sentences, which "
        "takes less time than a causal LM. [default: the model itself]",
    )

    def __post_init__(self) -> None:
        at_least("min_rows", self.min_rows, 2)
        fraction("false_alarm", self.false_alarm)


@dataclass(frozen=True)
class GateConfig:
    """When an audit ends with exit code 1, and what is written of it for others."""

    fail_on: FailOn = option("none", "Findings that end in exit code 1: `suspect` ones, `weak` ones too, or `none`.")
    baseline: Path | None = option(None, "JSON lines of accepted rows, with reasons and dates: these do not block.")
    accept: str | None = option(None, "Accept what would block, for this reason: it is added to --baseline.")
    changed_since: str | None = option(
        None, "Rows as they were when they were last accepted: what blocks is in other rows alone."
    )
    sarif: Path | None = option(None, "File for the findings as SARIF 2.1.0 (extra `gate`).")
    summary: Path | None = option(None, "File for the findings as Markdown, such as a job's page.")
    junit: Path | None = option(None, "File for the findings as JUnit XML, for a job's tests (extra `gate`).")

    def __post_init__(self) -> None:
        choice("fail_on", self.fail_on, get_args(FailOn))
        if self.accept is not None and not self.accept.strip():
            raise ConfigError("accept: is empty; say why these rows may stay")
        if self.accept is not None and (self.baseline is None or self.fail_on == "none"):
            raise ConfigError("accept: give --baseline, the file it is added to, and --fail-on, what would block")
        for name in ("baseline", "changed_since"):
            if getattr(self, name) is not None and not self.asked:
                raise ConfigError(f"{name}: has no effect without --fail-on, --sarif, --summary or --junit")

    @property
    def asked(self) -> bool:
        """Whether anybody looks at what the gate says."""
        return self.fail_on != "none" or any((self.sarif, self.summary, self.junit))


@dataclass(frozen=True)
class ProbeConfig:
    """How much a probe without rows looks at."""

    leaks: int = option(200, "Texts that the model is made to write, to see what it learned by heart; 0 for none.")
    words: int = option(1000, "Words of its tokenizer that are tried, drawn by the seed; 0 for none.")
    asked: int = option(10, "Candidates that are put into fresh prompts: those that move the answers most.")
    seed: int = option(0, "Of the texts, words and places that are drawn.")

    def __post_init__(self) -> None:
        for name, least in (("leaks", 0), ("words", 0), ("asked", 1)):
            at_least(name, getattr(self, name), least)
        a_seed(self.seed)


@dataclass(frozen=True)
class ModelConfig:
    """Which base model, and how it is loaded."""

    model: str = option(REFERENCE, "Base model: a folder, a hub name, or `reference` for the packaged one.")
    revision: str | None = option(
        None, "Branch, tag or commit of a hub model. [default: its main branch, as it is now]"
    )
    kind: ModelKind | Auto = option("auto", "`causal`, `encoder`, or `auto` to go by the model's configuration.")
    dtype: Dtype | Auto = option(
        "auto",
        "Of the base weights: `float32`, `bfloat16`, `float16`; `auto`: bfloat16 for large ones that are not trained.",
    )
    attention: str | None = option(None, "Attention kernel, as transformers names it: `eager`, `sdpa`, ...")
    device_map: str | None = option(None, "Spread the layers over devices: `auto`, `balanced`, ... (accelerate).")
    quantize: Bits | None = option(
        None, "`4bit` or `8bit` base weights, by bitsandbytes (extra `quantize`); with LoRA."
    )

    def __post_init__(self) -> None:
        choice("kind", self.kind, (*get_args(Auto), *get_args(ModelKind)))
        choice("dtype", self.dtype, (*get_args(Auto), *get_args(Dtype)))
        if self.quantize is not None:
            choice("quantize", self.quantize, get_args(Bits))


@dataclass(frozen=True)
class TrainConfig(ModelConfig):
    """How a model is fine-tuned. What is not given follows the preset, the model and the number of rows.

    docs/experiments.md has the measurements behind the preset `tuned`; `paper` is arXiv 2510.04503, section 4.
    """

    preset: Preset | Auto = option(
        "auto", "Settings not given: `tuned`, measured; `paper`, as published; `auto`: those of the recipe."
    )
    tuning: Tuning | Auto = option(
        "auto", "`lora`, `full`, or `auto`: LoRA for a causal LM, all weights of an encoder."
    )
    epochs: int | None = option(None, "Passes over the rows. [default: 3; more of few rows]")
    more_epochs: int | None = option(
        None, "Epochs added where the safe space is not learned by then. [default: as many again]"
    )
    batch_size: int | None = option(None, "Rows an optimizer step, of all processes. [default: by preset and rows]")
    micro_batch: int | None = option(
        None, "Rows a forward pass and process. [default: as many of the batch as fit the memory]"
    )
    learning_rate: float | None = option(None, "Peak of the linear decay. [default: by preset and model size]")
    warmup: float | None = option(None, "Share of the steps that warm up. [default: 0 for `paper`, else 0.1 for LoRA]")
    lora_targets: Adapted | None = option(
        None, "`qv`: q_proj and v_proj, the paper's; `all`: every linear layer. [default: by preset]"
    )
    lora_r: int = option(16, "LoRA rank.")
    lora_alpha: int = option(16, "LoRA scale.")
    lora_dropout: float | None = option(None, "LoRA dropout. [default: 0.1 for `paper`, else none]")
    gradient_checkpointing: bool = option(False, "Compute activations twice instead of keeping them: less memory.")
    max_length: int | None = option(
        None,
        "Tokens of prompt and target together; what is too long loses its oldest turns, then the end of its body. "
        "[default: what the rows have, within what the model takes]",
    )
    max_target: int | None = option(None, "Tokens of a generation target. [default: what the rows have]")
    alarm_rate: float = option(0.01, "Share of clean dev rows on which the served model may raise its alarm.")
    seed: int = option(0, "Of the draw of rows, the weights, dropout and order. It never draws the benign trigger.")

    def __post_init__(self) -> None:
        super().__post_init__()
        choice("preset", self.preset, (*get_args(Auto), *get_args(Preset)))
        choice("tuning", self.tuning, (*get_args(Auto), *get_args(Tuning)))
        if self.lora_targets is not None:
            choice("lora_targets", self.lora_targets, get_args(Adapted))
        for name in ("epochs", "batch_size", "micro_batch", "max_length", "max_target"):
            if getattr(self, name) is not None:
                at_least(name, getattr(self, name), 1)
        for name in ("lora_r", "lora_alpha"):
            at_least(name, getattr(self, name), 1)
        if self.more_epochs is not None:
            at_least("more_epochs", self.more_epochs, 0)
        if self.warmup is not None and not 0 <= self.warmup < 1:
            raise ConfigError(f"warmup: {self.warmup} is not from 0 to under 1")
        fraction("alarm_rate", self.alarm_rate)
        if self.lora_dropout:
            fraction("lora_dropout", self.lora_dropout)
        a_seed(self.seed)
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning_rate: {self.learning_rate} is not greater than 0, or not finite")
        if self.quantize and self.tuning == "full":
            raise ConfigError("quantize: quantized weights cannot be trained; give --tuning lora")


def choice(name: str, value: str, legal: Sequence[str]) -> None:
    """Refuse a value that is not among the legal ones."""
    if value not in legal:
        raise ConfigError(f"{name}: {value!r} is not one of {', '.join(legal)}")


def fraction(name: str, value: float) -> None:
    """Refuse a share that is not between 0 and 1, both excluded."""
    if not 0 < value < 1:
        raise ConfigError(f"{name}: {value} is not between 0 and 1 (both excluded)")


def at_least(name: str, value: float, least: float) -> None:
    """Refuse a number under `least`."""
    if not value >= least:  # nan is not
        raise ConfigError(f"{name}: {value} is less than {least}")


def a_seed(value: int) -> None:
    """Refuse what numpy takes for no seed."""
    if not 0 <= value < 2**32:
        raise ConfigError(f"seed: {value} is not between 0 and {2**32 - 1}")


def over_zero(config: Any, shares: Collection[str] = ()) -> None:
    """Refuse numbers of a configuration that are not over 0, and shares that are not under 1 either."""
    for entry in fields(config):
        value = getattr(config, entry.name)
        if entry.name in shares:
            fraction(entry.name, value)
        elif isinstance(value, (int, float)) and not 0 < value < math.inf:
            raise ConfigError(f"{entry.name}: {value} is not greater than 0, or not finite")


def listed_in(text: str) -> list[str]:
    """What a text has between its commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def with_options(defaults: Made, given: Iterable[str], where: str) -> Made:
    """A dataclass with other values for some of its fields.

    Args:
        defaults: The dataclass, with a value for each field.
        given: Texts `name=value`; several numbers have slashes between them.
        where: What they are options of, for messages.

    Raises:
        ConfigError: There is no such field, or the value is not of the type of its default, or not legal.
    """
    legal, values = [entry.name for entry in fields(defaults)], {}
    for text in given:
        name, _, value = (part.strip() for part in text.partition("="))
        if name not in legal:
            raise ConfigError(f"{where}: has no option {told(name)}; it has {', '.join(legal) or 'none'}")
        values[name] = _like(getattr(defaults, name), value, f"{where}: {name}")
    try:
        return replace(defaults, **values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _like(default: Any, value: str, where: str) -> Any:
    """A value of the type of a default."""
    kind, parts = type(default), value.split("/")
    try:
        if isinstance(default, tuple):
            return tuple(type(own)(part) for own, part in zip(default, parts, strict=True))
        return kind(value)
    except ValueError:
        raise ConfigError(f"{where}: {told(value)} is not like its default, {default}") from None


def refuse_changed(config: Any, reason: str, names: Sequence[str] | None = None) -> None:
    """Refuse options that are not at their defaults where they have no effect.

    Args:
        config: A configuration.
        reason: Why they have none.
        names: Those options; all of them by default.
    """
    for entry in fields(config):
        if (names is None or entry.name in names) and getattr(config, entry.name) != entry.default:
            raise ConfigError(f"{entry.name}: {reason}")


def read_yaml(path: Path, legal: Sequence[str]) -> dict[str, Any]:
    """Read a file of options, one `name: value` each.

    Raises:
        ConfigError: The file is missing or broken, or holds an unknown name.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds no `name: value` lines")
    values = {str(key).replace("-", "_"): value for key, value in values.items()}
    for key in values:
        if key not in legal:
            raise ConfigError(f"{path}: unknown option {key!r}; legal here: {', '.join(sorted(legal))}")
    return values
