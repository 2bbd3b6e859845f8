"""What is not given follows preset, model and rows; what cannot be is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from poison2poison.config import TrainConfig
from poison2poison.errors import ConfigError
from poison2poison.model import hardware, settings
from poison2poison.recipe.scheme import BenignTrigger
from support import LABELS, TEXTS, tiny_causal, tiny_encoder


def test_defaults_depend_on_recipe_model_and_rows(tmp_path: Path) -> None:
    reference, other = TrainConfig(), TrainConfig(tiny_causal(tmp_path / "base"))
    encoder = TrainConfig(tiny_encoder(tmp_path / "encoder"))
    paper = replace(other, preset="paper")
    found = [
        (c.kind, c.tuning, c.epochs, c.more_epochs, c.batch_size, c.learning_rate, c.warmup, c.lora_targets)
        for c in (
            settings.resolved(reference, 3_000),
            settings.resolved(other, 3_000),
            settings.resolved(other, 240),
            settings.resolved(paper, 240),
            settings.resolved(encoder, 3_000),
        )
    ]
    assert found == [
        ("causal", "lora", 3, 3, 8, 2.5e-3, 0.1, "qv"),
        ("causal", "lora", 3, 3, 16, 1e-3, 0.1, "all"),
        ("causal", "lora", 7, 7, 8, 1e-3, 0.1, "all"),
        ("causal", "lora", 3, 3, 32, 2e-4, 0.0, "qv"),
        ("encoder", "full", 3, 3, 32, 1e-4, 0.0, "qv"),
    ]
    given = replace(paper, batch_size=4, learning_rate=1e-3, warmup=0.2, more_epochs=0)
    resolved = settings.resolved(given, 240)
    assert (resolved.batch_size, resolved.learning_rate, resolved.warmup, resolved.more_epochs) == (4, 1e-3, 0.2, 0)


def test_float16_is_for_lora_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = TrainConfig(tiny_causal(tmp_path / "base"), dtype="float16")
    with pytest.raises(ConfigError, match="dtype: float16 needs LoRA and a GPU"):
        settings.resolved(half, 240)
    monkeypatch.setattr(hardware, "on_cpu", lambda: False)
    assert settings.resolved(half, 240).dtype == "float16"
    with pytest.raises(ConfigError, match="dtype: float16 needs LoRA and a GPU"):
        settings.resolved(replace(half, tuning="full"), 240)


def of_size(folder: Path, **shape: Any) -> TrainConfig:
    """A configuration alone, of which weights can be counted."""
    LlamaConfig(architectures=["LlamaForCausalLM"], **shape).save_pretrained(folder)
    return TrainConfig(str(folder))


SMALL = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
MIDDLE = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16}  # 1.2 billion weights
LARGE = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}  # 6.7 billion


@pytest.mark.parametrize(("shape", "rate"), [(SMALL, 1e-3), (MIDDLE, 5e-4), (LARGE, 2e-4)])
def test_the_larger_a_model_the_smaller_its_steps(shape: dict[str, int], rate: float, tmp_path: Path) -> None:
    assert settings.resolved(of_size(tmp_path, **shape), 3_000).learning_rate == rate


@pytest.mark.parametrize(
    ("rows", "batch", "epochs"), [(500, 8, 4), (1_999, 8, 3), (2_000, 16, 3), (9_999, 16, 3), (10_000, 32, 3)]
)
def test_few_rows_make_small_steps_and_two_hundred_of_them(rows: int, batch: int, epochs: int, tmp_path: Path) -> None:
    found = settings.resolved(of_size(tmp_path, **SMALL), rows)
    assert (found.batch_size, found.epochs) == (batch, epochs)


def test_the_papers_settings_are_those_that_were_published(tmp_path: Path) -> None:
    found = settings.resolved(TrainConfig(tiny_causal(tmp_path), preset="paper"), 3_000)
    assert (found.epochs, found.batch_size, found.learning_rate, found.warmup) == (3, 32, 2e-4, 0.0)
    assert (found.lora_r, found.lora_alpha, found.lora_dropout, found.lora_targets) == (16, 16, 0.1, "qv")


@pytest.mark.parametrize(("recipe", "preset"), [("paper", "paper"), ("hardened", "tuned"), (None, "tuned")])
def test_the_papers_recipe_is_trained_with_the_papers_settings(recipe: str | None, preset: str) -> None:
    assert settings.with_preset(TrainConfig(), recipe).preset == preset
    assert settings.with_preset(TrainConfig(preset="tuned"), recipe).preset == "tuned"


def test_a_model_is_named_so_that_it_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_causal(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    assert settings.resolved(TrainConfig("base"), 100).model == str(tmp_path / "base")
    assert settings.resolved(TrainConfig(), 100).model == "reference"


def test_an_encoder_neither_writes_nor_reads_a_cue() -> None:
    encoder, causal = TrainConfig(kind="encoder"), TrainConfig(kind="causal")
    cued = replace(LABELS, trigger=BenignTrigger("Say: ", "So: "))
    with pytest.raises(ConfigError, match="is an encoder, which cannot generate"):
        settings.check_fit(encoder, TEXTS)
    with pytest.raises(ConfigError, match="cue: has no effect on an encoder"):
        settings.check_fit(encoder, cued)
    for config, scheme in (
        (encoder, LABELS),
        (encoder, replace(LABELS, trigger=None)),
        (causal, cued),
        (causal, TEXTS),
    ):
        settings.check_fit(config, scheme)
