"""Which layers LoRA adapts, and that an adapter is kept with all that was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    DistilBertConfig,
    GPT2Config,
)

from poison2poison.config import TrainConfig
from poison2poison.errors import ModelError
from poison2poison.model import backbone, lora
from poison2poison.types import Adapted
from support import LABELS, PROMPTS, SHAPE, TOKENIZER, saved, served, tiny_causal

BERT = BertConfig(vocab_size=len(TOKENIZER), max_position_embeddings=256, pad_token_id=TOKENIZER.pad_token_id, **SHAPE)


@pytest.mark.parametrize("which", ["qv", "all"])
@pytest.mark.parametrize(
    ("architecture", "head"),
    [
        (BERT, ["classifier", "pooler"]),
        (
            DistilBertConfig(vocab_size=len(TOKENIZER), dim=32, n_layers=1, n_heads=2, hidden_dim=64),
            ["pre_classifier", "classifier"],
        ),
    ],
    ids=["bert", "distilbert"],
)
def test_lora_on_an_encoder_keeps_its_whole_head(
    architecture: Any, head: list[str], which: Adapted, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    # As many are given: the head, and of BERT the pooler, are not in the files.
    config = saved(AutoModelForMaskedLM.from_config(architecture), tmp_path / "base")
    base = backbone.load_model(config, "encoder", 4, frozen=True)
    targets = lora.target_modules(base, which)
    assert lora.classification_head(base) == head
    assert not [name for name in targets if "pool" in name or "classifier" in name]
    adapter = LoraConfig(task_type="SEQ_CLS", target_modules=targets, modules_to_save=lora.classification_head(base))
    model: Any = get_peft_model(base, adapter)
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights)
    trained, _ = served(model, LABELS, "encoder").scored(PROMPTS, "safe")
    model.save_pretrained(tmp_path / "adapter")
    again = lora.load_adapter(backbone.load_model(config, "encoder", 4, frozen=True), str(tmp_path / "adapter"))
    torch.testing.assert_close(served(again, LABELS, "encoder").scored(PROMPTS, "safe").logits, trained)


ALL = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


@pytest.mark.parametrize(("which", "names"), [("qv", ["q_proj", "v_proj"]), ("all", ALL)])
def test_lora_adapts_the_papers_layers_or_every_linear_one(which: Adapted, names: list[str], tmp_path: Path) -> None:
    model = backbone.load_model(tiny_causal(tmp_path), "causal", 0, frozen=True)
    assert lora.target_modules(model, which) == names  # never the output head


def test_where_an_architecture_has_other_names_the_paper_means_its_attention() -> None:
    shape: dict[str, Any] = {"n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 100}
    model = AutoModelForCausalLM.from_config(GPT2Config(**shape))
    assert lora.target_modules(model, "qv") == ["c_attn"]
    found = lora.target_modules(model, "all")
    layers = {name for name, part in model.named_modules() for end in found if name == end or name.endswith(f".{end}")}
    assert layers == {f"transformer.h.0.{part}" for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}


def test_layers_that_share_their_names_with_others_are_named_whole(tmp_path: Path) -> None:
    model = backbone.load_model(tiny_causal(tmp_path), "causal", 0, frozen=True)
    model.q_proj = torch.nn.Linear(2, 2)  # outside the layers that read text
    found = lora.target_modules(model, "qv")
    assert found == [f"model.layers.0.self_attn.{name}" for name in ("q_proj", "v_proj")]


def test_a_model_without_linear_layers_is_refused(tmp_path: Path) -> None:
    model = backbone.load_model(tiny_causal(tmp_path), "causal", 0, frozen=True)
    model.model.layers = torch.nn.ModuleList()
    with pytest.raises(ModelError, match="has no linear layers, which LoRA adapts"):
        lora.target_modules(model, "all")


def test_an_adapter_is_as_its_configuration_says(tmp_path: Path) -> None:
    config = TrainConfig(lora_r=4, lora_alpha=8, lora_dropout=0.25, lora_targets="qv")
    model = lora.with_lora(backbone.load_model(tiny_causal(tmp_path), "causal", 0, frozen=True), "causal", config)
    adapter = model.peft_config["default"]
    assert (adapter.r, adapter.lora_alpha, adapter.lora_dropout, adapter.modules_to_save) == (4, 8, 0.25, None)
    trained = {name.split(".")[-3] for name, weights in model.named_parameters() if weights.requires_grad}
    assert trained == {"lora_A", "lora_B"}
    first = next(weights for name, weights in model.named_parameters() if "lora_A" in name)
    assert first.shape == (4, 32)


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    model = backbone.load_model(tiny_causal(tmp_path / "base"), "causal", 0, frozen=True)
    with pytest.raises(ModelError, match="nowhere"):
        lora.load_adapter(model, str(tmp_path / "nowhere"))
