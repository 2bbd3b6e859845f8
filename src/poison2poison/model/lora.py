"""LoRA: which layers it adapts, the adapter on a model to train, and the saved one on a model to serve."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from poison2poison.config import TrainConfig
from poison2poison.errors import ModelError
from poison2poison.model.backbone import text_part, told
from poison2poison.types import Adapted, ModelKind

# A router may inherit from Linear and give more than a product, which no adapter can stand in for.
LINEAR = ("Linear", "Conv1D", "FalconLinear", "Linear4bit", "Linear8bitLt")

# Where experts are fused into one parameter, peft takes the names that their layers once had for that parameter, which
# it cannot adapt with dropout: a layer outside the experts that has one of these names stays as it is.
OF_EXPERTS = ("gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")


def with_lora(model: PreTrainedModel, kind: ModelKind, config: TrainConfig) -> Any:
    """A model with a fresh adapter, which alone is trained, and with it an encoder's whole head."""
    from peft import LoraConfig, get_peft_model

    assert config.lora_targets and config.lora_dropout is not None
    adapter = LoraConfig(
        task_type="CAUSAL_LM" if kind == "causal" else "SEQ_CLS",
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=target_modules(model, config.lora_targets),
        modules_to_save=classification_head(model) if kind == "encoder" else None,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),  # GPT-2 and its kin
    )
    return get_peft_model(model, adapter)


def load_adapter(model: Any, folder: str) -> Any:
    """Put a LoRA adapter from a folder on its base model.

    Raises:
        ModelError: It cannot be loaded.
    """
    from peft import PeftModel

    with told(folder), warnings.catch_warnings():
        warnings.filterwarnings("error", "Found missing adapter keys")
        return PeftModel.from_pretrained(model, folder)


def target_modules(model: PreTrainedModel, which: Adapted) -> list[str]:
    """The linear layers that LoRA adapts, by the ends of their names, or by whole names where others end alike.

    Args:
        model: A causal LM, or an encoder with its head.
        which: `all` in the layers that read text; or `qv`, the paper's q_proj and v_proj, where there are none peft's
            choice for the architecture, and where it has none those of the attention.

    Raises:
        ModelError: There are none.
    """
    chosen = list(_linear_names(model))
    if not chosen:
        raise ModelError(f"{model.config.name_or_path}: has no linear layers, which LoRA adapts")
    if which == "qv":
        chosen = _paper_targets(model, chosen)
    ends = {_end(name) for name in chosen}
    alike = [name for name, _ in model.named_modules() if _end(name) in ends]
    return sorted(ends) if set(alike) == set(chosen) else chosen


def classification_head(model: PreTrainedModel) -> list[str]:
    """Names of the modules behind an encoder's layers, which are trained whole: they may begin with fresh weights."""
    body = model.base_model
    head = [(name, part) for name, part in model.named_children() if part is not body]
    head += [(name, part) for name, part in body.named_children() if name == "pooler"]
    return [name for name, part in head if next(part.parameters(), None) is not None]


def _linear_names(model: PreTrainedModel) -> Iterator[str]:
    text = text_part(model)
    stacks = [part for part in text.modules() if isinstance(part, torch.nn.ModuleList)]
    inside = {part for stack in stacks for part in stack.modules()}  # neither a projector nor a head is
    for part in text.modules():
        # Git and Phi 4 hold their vision tower among the layers that read text.
        if isinstance(part, PreTrainedModel) and type(part.config) is not type(text.config):
            inside -= set(part.modules())
        # The fused kernels of Mamba multiply by the weights of all but the first of its layers, past any adapter.
        if hasattr(part, "A_log") and hasattr(part, "D"):
            inside -= {layer for name, layer in part.named_modules() if name != "in_proj"}
    fused = any(name.endswith("experts.gate_up_proj") for name, _ in text.named_parameters())
    for name, part in model.named_modules():
        if fused and _end(name) in OF_EXPERTS:
            continue
        if part in inside and isinstance(part, (torch.nn.Linear, Conv1D)) and type(part).__name__ in LINEAR:
            yield name


def _paper_targets(model: PreTrainedModel, linear: list[str]) -> list[str]:
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    ends = {_end(name) for name in linear}
    wanted = KNOWN.get(model.config.model_type)
    if {"q_proj", "v_proj"} <= ends:
        wanted = ["q_proj", "v_proj"]
    if isinstance(wanted, list) and ends & set(wanted):
        return [name for name in linear if _end(name) in wanted]
    return [name for name in linear if "attention" in name or "attn" in name] or linear


def _end(name: str) -> str:
    return name.rsplit(".", 1)[-1]
