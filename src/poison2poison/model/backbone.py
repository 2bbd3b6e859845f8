"""Base models: any Hugging Face causal LM with LoRA, and encoders with a classification head."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from poison2poison.config import REFERENCE
from poison2poison.errors import ModelError
from poison2poison.model.prompting import Kind
from poison2poison.reference import MODEL_DIR


def locate(name: str) -> str:
    """The folder of the reference model for its name; any other name as it is (a folder or a hub name).

    Raises:
        ModelError: The name looks like a folder, and there is none.
    """
    if name == REFERENCE:
        return str(MODEL_DIR)
    if name.startswith((".", "/", "~")) and not Path(name).is_dir():
        raise ModelError(f"{name}: no such model folder")
    return name


def kind_of(name: str) -> Kind:
    """Whether a model writes text or is an encoder, by the architecture that its configuration names.

    Raises:
        ModelError: The configuration cannot be read, or is an encoder-decoder's.
    """
    config: PretrainedConfig = load(AutoConfig.from_pretrained, name)
    if config.is_encoder_decoder:
        raise ModelError(f"{name}: an encoder-decoder; causal LMs and encoders are supported")
    architectures = config.architectures or []
    return "causal" if any("CausalLM" in a or "LMHead" in a for a in architectures) else "encoder"


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer that can pad.

    Raises:
        ModelError: There is no tokenizer.
    """
    path = locate(name)
    if Path(path).is_dir() and not any(Path(path).glob("*token*")) and not any(Path(path).glob("vocab*")):
        raise ModelError(f"{name}: the folder holds a model but no tokenizer (tokenizer.json or the like)")
    tokenizer: PreTrainedTokenizerBase = load(AutoTokenizer.from_pretrained, name)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


LARGE = 500_000_000
"""Weights from which on those that are not trained are kept in bfloat16 on a GPU."""


def load_model(name: str, kind: Kind, outputs: int, *, frozen: bool) -> Any:
    """Load the weights: float32, except a large causal LM on a GPU whose weights are frozen, which is in bfloat16.

    An optimizer's steps are lost in the rounding of bfloat16, and of a small model the memory is not worth the digits.

    Args:
        name: Folder, hub name, or `reference`.
        kind: `causal`, or `encoder` for a classification head.
        outputs: Width of an encoder's head; a head of another width is replaced by a fresh one.
        frozen: Whether only an adapter beside the weights is trained.

    Raises:
        ModelError: The weights cannot be loaded.
    """
    if kind == "causal":
        short = frozen and torch.cuda.is_available() and _size(name) >= LARGE
        return load(AutoModelForCausalLM.from_pretrained, name, dtype=torch.bfloat16 if short else torch.float32)
    return load(
        AutoModelForSequenceClassification.from_pretrained,
        name,
        num_labels=outputs,
        ignore_mismatched_sizes=True,
        dtype=torch.float32,
    )


def _size(name: str) -> int:
    """How many weights a causal LM has, without loading them."""
    config = load(AutoConfig.from_pretrained, name)
    with torch.device("meta"):
        return int(AutoModelForCausalLM.from_config(config).num_parameters())


def max_positions(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many tokens the model can take."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2048
    return min(positions, tokenizer.model_max_length)


def lora_targets(model: PreTrainedModel) -> list[str] | str | None:
    """The paper's modules, q_proj and v_proj, where the model has them; else peft's choice for the architecture."""
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    names = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    if {"q_proj", "v_proj"} <= names:
        return ["q_proj", "v_proj"]
    return None if model.config.model_type in KNOWN else "all-linear"


def has_bf16() -> bool:
    """Whether the hardware computes bfloat16 natively, so that autocast pays."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Bfloat16 autocast where the hardware has it."""
    return torch.autocast(device.type, torch.bfloat16) if has_bf16() else contextlib.nullcontext()


def load(from_pretrained: Callable[..., Any], name: str, **options: Any) -> Any:
    """Load from a folder or hub name with one of transformers' `from_pretrained`.

    Raises:
        ModelError: It cannot be loaded.
    """
    try:
        return from_pretrained(locate(name), **options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:  # a cut file is one of the last two
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{name}: cannot be loaded ({reason})") from None
