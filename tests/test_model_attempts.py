"""An attempt at a training: the model that it begins with, how a step is parted, and how weights are kept."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from poison2poison.config import TrainConfig
from poison2poison.errors import ConfigError
from poison2poison.model import attempts
from poison2poison.model.job import Job, prepare
from poison2poison.model.settings import resolved
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.recipe.repoison import repoison
from support import LABELS, opinions, tiny_causal, tiny_encoder

REPOISONED = repoison(opinions(40), LABELS, RepoisonConfig("paper", rho=0.5))


def job_of(base: str, **options: Any) -> Job:
    return prepare(REPOISONED, LABELS, resolved(TrainConfig(base, **options), 40), Path("nowhere"), None)


def trained(model: Any) -> set[str]:
    return {name for name, weights in model.named_parameters() if weights.requires_grad}


@pytest.mark.parametrize(
    ("rows", "most", "parts"), [(16, 16, 16), (16, 8, 8), (12, 8, 6), (12, 5, 4), (7, 6, 1), (4, 100, 4)]
)
def test_a_step_has_a_whole_number_of_parts_as_large_as_may_be(rows: int, most: int, parts: int) -> None:
    assert attempts._divisor(rows, most) == parts


def test_with_lora_the_adapter_alone_is_trained(tmp_path: Path) -> None:
    job = job_of(tiny_causal(tmp_path / "base"), tuning="lora", lora_targets="qv")
    model = attempts._model(job)
    assert trained(model) == {
        f"base_model.model.model.layers.0.self_attn.{layer}.lora_{part}.default.weight"
        for layer in ("q_proj", "v_proj")
        for part in "AB"
    }


def test_fully_tuned_all_weights_are_trained(tmp_path: Path) -> None:
    job = job_of(tiny_causal(tmp_path / "base"), tuning="full")
    model = attempts._model(job)
    assert trained(model) == {name for name, _ in model.named_parameters()}
    assert not hasattr(model, "peft_config")


def test_each_safe_class_begins_as_its_original_one(tmp_path: Path) -> None:
    head = attempts._model(job_of(tiny_encoder(tmp_path / "base"))).classifier
    torch.testing.assert_close(head.weight[2:], head.weight[:2])
    torch.testing.assert_close(head.bias[2:], head.bias[:2])
    assert not torch.allclose(head.weight[0], head.weight[1])


@pytest.mark.parametrize(("asked", "found"), [(None, "eager"), ("sdpa", "sdpa")])
def test_on_a_cpu_attention_is_the_faster_kernel_unless_one_is_asked_for(
    asked: str | None, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model = attempts._model(job_of(tiny_causal(tmp_path / "base"), attention=asked))
    assert model.config._attn_implementation == found


@pytest.mark.parametrize("asked", [True, False])
def test_activations_are_computed_twice_where_that_is_asked_for(asked: bool, tmp_path: Path) -> None:
    model = attempts._model(job_of(tiny_causal(tmp_path / "base"), gradient_checkpointing=asked))
    assert any(getattr(part, "gradient_checkpointing", False) for part in model.modules()) == asked


def spread(stage: int | None = None, *, fsdp: bool = False, newer: bool = False, gathers: bool = False) -> Any:
    """A trainer whose weights accelerate spreads over processes so."""
    zero = {"stage": stage, "stage3_gather_16bit_weights_on_model_save": gathers}
    state = SimpleNamespace(deepspeed_plugin=SimpleNamespace(deepspeed_config={"zero_optimization": zero}))
    accelerator = SimpleNamespace(is_fsdp2=newer, state=state)
    return SimpleNamespace(is_fsdp_enabled=fsdp, is_deepspeed_enabled=stage is not None, accelerator=accelerator)


@pytest.mark.parametrize(
    ("trainer", "said"),
    [(spread(fsdp=True), "fsdp_version: only FSDP2"), (spread(3), "zero3_save_16bit_model: give `true`")],
)
def test_spread_weights_that_could_not_be_gathered_are_refused(trainer: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        attempts._refuse_lost_weights(trainer)


@pytest.mark.parametrize("trainer", [spread(), spread(fsdp=True, newer=True), spread(2), spread(3, gathers=True)])
def test_weights_that_can_be_gathered_are_taken(trainer: Any) -> None:
    attempts._refuse_lost_weights(trainer)


def kept(model: Any, name: str, folder: Path) -> Path:
    accelerator = SimpleNamespace(get_state_dict=lambda wrapped: wrapped.state_dict())
    trainer: Any = SimpleNamespace(accelerator=accelerator, model_wrapped=model, model=model)
    attempts.save_model(trainer, AutoTokenizer.from_pretrained(name), name, folder)
    return folder


def test_whole_weights_take_the_place_of_what_was_kept_before(tmp_path: Path) -> None:
    base = tiny_causal(tmp_path / "base")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old.txt").write_text("old")
    kept(AutoModelForCausalLM.from_pretrained(base), base, tmp_path / "model")
    assert not (tmp_path / "model" / "old.txt").exists()
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "model", tmp_path / "base"))
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    assert len({path.stat().st_mode for path in (tmp_path / "model").iterdir()}) == 1  # none for the owner alone


def test_an_adapter_is_kept_alone_and_names_its_base(tmp_path: Path) -> None:
    job = job_of(tiny_causal(tmp_path / "base"), tuning="lora", lora_targets="qv")
    folder = kept(attempts._model(job), job.config.model, tmp_path / "model")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "base")
    assert len(load_file(folder / "adapter_model.safetensors")) == 4
    assert not (folder / "model.safetensors").exists()
