"""Which layers LoRA adapts, and that an adapter is kept with all that was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    DistilBertConfig,
)

from poison2poison.model import backbone, lora
from poison2poison.types import Adapted
from support import LABELS, PROMPTS, SHAPE, TOKENIZER, saved, served

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
