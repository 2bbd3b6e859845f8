"""What is not given follows preset, model and rows; what cannot be is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from poison2poison.config import TrainConfig
from poison2poison.errors import ConfigError
from poison2poison.model import hardware, settings
from support import tiny_causal, tiny_encoder


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
