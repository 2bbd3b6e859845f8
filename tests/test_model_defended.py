"""An artifact folder is loaded as it was trained, or refused with the reason."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from poison2poison.config import ModelConfig
from poison2poison.errors import ModelError
from poison2poison.files import write_json
from poison2poison.model import backbone
from poison2poison.model.defended import DefendedModel, load_prompter
from support import LABELS, PROMPTS, TEXTS, saved, served, tiny_causal, tiny_encoder


def _without(file: Path, part: str) -> None:
    """Take weights out of a file."""
    save_file({name: value for name, value in load_file(file).items() if part not in name}, file, {"format": "pt"})


def artifact(folder: Path, base: ModelConfig, **run: Any) -> Path:
    """A run of a fully tuned model."""
    saved(backbone.load_model(base, run.get("kind", "causal"), 4, frozen=False), folder / "model")
    LABELS.save(folder / "scheme.json")
    content = {
        "status": "done", "kind": "causal", "tuning": "full", "config": {**asdict(base), "kind": "causal", "epochs": 3},
        "prompting": {"max_length": 128, "max_target": 30, "label_words": ["0", "1", "2", "3"]}, **run,
    }  # fmt: skip
    write_json(folder / "run.json", content)
    return folder


def test_an_artifact_without_its_head_or_with_half_an_adapter_is_refused(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = ModelConfig(tiny_encoder(tmp_path / "base"))
    folder = artifact(tmp_path / "run", base, kind="encoder")
    model = backbone.load_model(base, "encoder", 4, frozen=True)
    saved(model, folder / "model")
    assert DefendedModel.load(folder).classify(PROMPTS)
    _without(folder / "model" / "model.safetensors", "classifier.weight")
    with pytest.raises(ModelError, match=r"weights are missing: classifier\.weight"):
        DefendedModel.load(folder)
    adapter = LoraConfig(task_type="SEQ_CLS", target_modules=["query"], modules_to_save=["classifier"])
    get_peft_model(model, adapter).save_pretrained(str(folder / "model"))
    write_json(folder / "run.json", {**json.loads((folder / "run.json").read_text()), "tuning": "lora"})
    assert DefendedModel.load(folder).classify(PROMPTS)
    _without(folder / "model" / "adapter_model.safetensors", "lora_A")
    with pytest.raises(ModelError, match=r"cannot be loaded .*missing adapter keys"):
        DefendedModel.load(folder)


def test_an_artifact_is_loaded_as_it_was_trained(tmp_path: Path) -> None:
    base = ModelConfig(tiny_causal(tmp_path / "base"), dtype="bfloat16", attention="eager", device_map="auto")
    loaded = DefendedModel.load(artifact(tmp_path / "run", base)).model
    assert (loaded.dtype, loaded.config._attn_implementation) == (torch.bfloat16, "eager")
    old = artifact(tmp_path / "old", ModelConfig(base.model), config={"model": base.model, "accumulate": 1})
    assert DefendedModel.load(old, device="cpu").model.dtype == torch.float32


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        ({"status": "running"}, "was interrupted; run the same command again"),
        ({"status": "failed", "reason": "the loss is nan"}, "its training failed: the loss is nan"),
        (
            {"status": "unlearned", "reason": "the safe space was not learned: 25.0% leak"},
            "the safe space was not learned: 25.0% leak. To load it .*--allow-unlearned",
        ),
        ({"status": "strange"}, "its status 'strange' is not known"),
        ({"config": None}, "not an artifact folder"),
    ],
)
def test_a_run_that_left_no_model_to_serve_is_told(run: Any, reason: str, tmp_path: Path) -> None:
    folder = artifact(tmp_path / "run", ModelConfig(tiny_causal(tmp_path / "base")), **run)
    with pytest.raises(ModelError, match=reason):
        DefendedModel.load(folder)
    if run.get("status") == "unlearned":
        assert DefendedModel.load(folder, allow_unlearned=True).classify(PROMPTS)


def test_a_folder_tells_how_its_rows_become_tokens_without_its_weights(tmp_path: Path) -> None:
    folder = artifact(tmp_path / "run", ModelConfig(tiny_causal(tmp_path / "base")))
    (folder / "model" / "model.safetensors").unlink()
    prompter = load_prompter(folder)
    assert (prompter.scheme, prompter.kind, prompter.max_length) == (LABELS, "causal", 128)
    assert prompter.label_words == ("0", "1", "2", "3")
    write_json(folder / "run.json", {"status": "failed", "reason": "it burnt"})
    with pytest.raises(ModelError, match="its training failed: it burnt"):
        load_prompter(folder)


def test_a_model_is_asked_for_what_it_was_trained_for(tmp_path: Path) -> None:
    model = backbone.load_model(tiny_causal(tmp_path), "causal", 0, frozen=True)
    assert {answer.text for answer in served(model, LABELS).answer(PROMPTS)} <= {*LABELS.labels}
    assert served(model, TEXTS).answer(PROMPTS[:1])[0].text not in LABELS.labels


def test_policy_and_alarm_are_those_of_the_caller_and_of_the_folder(tmp_path: Path) -> None:
    folder = artifact(tmp_path / "run", ModelConfig(tiny_causal(tmp_path / "base")), alarm_threshold=0.25)
    model = DefendedModel.load(folder, policy="refuse", device="cpu")
    assert (model.policy, model.alarm_threshold, model.space) == ("refuse", 0.25, "safe")
