"""Base models: any causal LM of transformers, also behind a vision tower, and encoders with a classification head."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)
from transformers.pytorch_utils import Conv1D
from transformers.utils.hub import cached_file, extract_commit_hash

from poison2poison.config import REFERENCE, ModelConfig, choice
from poison2poison.errors import ConfigError, ModelError, P2PError
from poison2poison.model.prompting import Kind
from poison2poison.reference import MODEL_DIR

LARGE = 500_000_000
"""Weights from which on those that are not trained are kept in bfloat16 on a GPU."""

# Listed among the causal LMs, though each of their tokens sees the later ones too.
BIDIRECTIONAL = ("bert-generation", "cpmant", "diffusion_gemma", "xlnet")

# Their batched answers are not those of each prompt alone (transformers 5.23): the first ignores the mask, the second
# groups tokens by their place in the padded row, the others take wrong steps behind padding.
MISREAD_PADDING = ("rwkv", "deepseek_v4", "glm_moe_dsa", "minimax")

# A router may inherit from Linear and give more than a product, which no adapter can stand in for.
LINEAR = ("Linear", "Conv1D", "FalconLinear", "Linear4bit", "Linear8bitLt")

# Where experts are fused into one parameter, peft takes the names that their layers once had for that parameter, which
# it cannot adapt with dropout: a layer outside the experts that has one of these names stays as it is.
OF_EXPERTS = ("gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")

SUPPORTED = "supported are causal LMs, multimodal models that hold one, and encoders with a classification head"


# --- names ------------------------------------------------------------------------------------------------------------


def locate(name: str) -> str:
    """The folder of the reference model for its name; any other name as it is (a folder or a hub name).

    Raises:
        ModelError: The name looks like a folder, and there is none.
    """
    if name == REFERENCE:
        return str(MODEL_DIR)
    path = Path(name).expanduser() if name.startswith("~/") else Path(name)
    if path.is_dir():
        return str(path)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:  # a hub name is `owner/name`
        raise ModelError(f"{name}: no such model folder")
    return name


def canonical(name: str) -> str:
    """A model's name as an artifact records it: a folder by its absolute path, so that it is found from anywhere.

    Raises:
        ModelError: As of `locate`.
    """
    found = Path(locate(name))
    return str(found.resolve()) if name != REFERENCE and found.is_dir() else name


def commit_of(config: ModelConfig) -> str | None:
    """The commit of a hub model that is loaded; None for a folder, which has none.

    Raises:
        ModelError: The model cannot be found.
    """
    path = locate(config.model)
    if Path(path).is_dir():
        return None
    with _told(config.model):
        found: str | None = extract_commit_hash(cached_file(path, "config.json", revision=config.revision), None)
    return found


# --- kinds ------------------------------------------------------------------------------------------------------------


def kind_of(config: ModelConfig) -> Kind:
    """Whether a model writes text or is an encoder, which a classification head is put on.

    The configuration's architectures decide, by transformers' own lists of what is what; where they are on no list, the
    model type does.

    Raises:
        ModelError: The configuration cannot be read, or is of neither kind.
    """
    if config.kind != "auto":
        return "causal" if config.kind == "causal" else "encoder"
    found = _configuration(config)
    architectures: Sequence[str] = found.architectures or ()
    if _is_encoder_decoder(found):
        raise ModelError(f"{config.model}: an encoder-decoder, or a half of one; {SUPPORTED}")
    kinds = (_kind_of_architecture(name, found) for name in architectures)
    kind = next((kind for kind in kinds if kind), None) or _kind_of_type(found.model_type)
    if kind is None or (kind == "encoder" and found.model_type not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES):
        what = ", ".join(architectures) or f"a model of type {found.model_type}"
        raise ModelError(f"{config.model}: {what}, which cannot be used; {SUPPORTED}")
    return kind


def _is_encoder_decoder(config: PretrainedConfig) -> bool:
    """Whether a model has an encoder and a decoder, or is the decoder of such a one, which counts padding in."""
    half = (
        config.model_type in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
        and config.model_type not in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
    )
    return half or config.is_encoder_decoder or config.get_text_config(decoder=True).is_encoder_decoder


def _kind_of_architecture(name: str, config: PretrainedConfig) -> Kind | None:
    if name in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.values():
        return "encoder"
    if name in MODEL_FOR_MASKED_LM_MAPPING_NAMES.values():
        return "encoder"
    if name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        # BERT and its kin are built either way; only as a decoder do they see no later token.
        decoder = getattr(config, "is_decoder", False)
        return "encoder" if _sees_later_tokens(config.model_type) and not decoder else "causal"
    known = name in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.values()
    return "causal" if known and config.model_type not in BIDIRECTIONAL else None


def _kind_of_type(model_type: str) -> Kind | None:
    if _sees_later_tokens(model_type):
        return "encoder"
    if model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or model_type in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES:
        return "causal"
    return "encoder" if model_type in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES else None


def _sees_later_tokens(model_type: str) -> bool:
    return model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES or model_type in BIDIRECTIONAL


# --- loading ----------------------------------------------------------------------------------------------------------


def load_tokenizer(model: ModelConfig | str) -> PreTrainedTokenizerBase:
    """Load a tokenizer that can pad.

    Raises:
        ModelError: There is no tokenizer.
    """
    config = _as_config(model)
    path = Path(locate(config.model))
    if path.is_dir() and not any(path.glob("*token*")) and not any(path.glob("vocab*")):
        raise ModelError(f"{config.model}: the folder holds a model but no tokenizer (tokenizer.json or the like)")
    tokenizer: PreTrainedTokenizerBase = load(AutoTokenizer.from_pretrained, config.model, revision=config.revision)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


def load_model(model: ModelConfig | str, kind: Kind, outputs: int, *, frozen: bool, with_head: bool = False) -> Any:
    """Load the weights: float32, except a large causal LM on a GPU whose weights are frozen, which is in bfloat16.

    An optimizer's steps are lost in the rounding of bfloat16, and of a small model the memory is not worth the digits.

    Args:
        model: Which model, and how it is loaded, where a dtype may be named; or its name alone.
        kind: `causal`, or `encoder` for a classification head.
        outputs: Width of an encoder's head; a head of another width is replaced by a fresh one.
        frozen: Whether only an adapter beside the weights is trained.
        with_head: Whether an encoder's head must be there, as in an artifact.

    Raises:
        ModelError: The weights cannot be loaded, or are not all there.
        ConfigError: They cannot be loaded in the way that is asked for.
    """
    config = _as_config(model)
    options = _options(config, kind, frozen=frozen)
    if kind == "causal":
        return _weights(_causal(config), config, options)
    options |= {"num_labels": outputs, "ignore_mismatched_sizes": True}
    loaded = _weights(AutoModelForSequenceClassification, config, options, headless=not with_head)
    # A decoder with a classification head finds each text's last token by what it is padded with.
    padding = load_tokenizer(config).pad_token_id
    loaded.config.pad_token_id = loaded.config.get_text_config().pad_token_id = padding
    return loaded


def load_body(config: ModelConfig, kind: Kind) -> Any:
    """Load a model without its head, as frozen weights: of a multimodal one the part that reads text.

    Raises:
        ModelError: As of `load_model`.
        ConfigError: As of `load_model`.
    """
    return _text_part(_weights(AutoModel, config, _options(config, kind, frozen=True), headless=True))


def count_weights(config: ModelConfig) -> int:
    """How many weights a model has, without loading them.

    Raises:
        ModelError: As of `kind_of`.
    """
    auto = _causal(config) if kind_of(config) == "causal" else AutoModelForSequenceClassification
    with _told(config.model), torch.device("meta"):
        return int(auto.from_config(_configuration(config), trust_remote_code=False).num_parameters())


def load(from_pretrained: Callable[..., Any], name: str, **options: Any) -> Any:
    """Load from a folder or hub name with one of transformers' `from_pretrained`; code that lies there is never run.

    Raises:
        ModelError: It cannot be loaded.
    """
    options = {option: value for option, value in options.items() if value is not None}
    with _told(name):
        return from_pretrained(locate(name), trust_remote_code=False, **options)


def load_adapter(model: Any, folder: str) -> Any:
    """Put a LoRA adapter from a folder on its base model.

    Raises:
        ModelError: It cannot be loaded.
    """
    from peft import PeftModel

    with _told(folder), warnings.catch_warnings():
        warnings.filterwarnings("error", "Found missing adapter keys")
        return PeftModel.from_pretrained(model, folder)


@contextlib.contextmanager
def _told(name: str) -> Iterator[None]:
    """Say in one line what a library raised: there is no end of what a broken file can make it raise."""
    try:
        yield
    except P2PError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        if "custom code" in reason:
            raise ModelError(
                f"{name}: needs code of its own, which comes with it and is not run. Give a model of an architecture "
                "that transformers has, or update transformers"
            ) from None
        raise ModelError(f"{name}: cannot be loaded ({reason[:300]})") from None


def _as_config(model: ModelConfig | str) -> ModelConfig:
    return ModelConfig(model) if isinstance(model, str) else model


def _configuration(config: ModelConfig) -> PretrainedConfig:
    found: PretrainedConfig = load(AutoConfig.from_pretrained, config.model, revision=config.revision)
    return found


def _causal(config: ModelConfig) -> Any:
    """The auto class that loads a causal LM; of a multimodal model its text alone, where transformers can."""
    found = _configuration(config)
    texts = found.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    names = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if texts else MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
    if found.model_type in names:
        _refuse_without_text(config.model, getattr(transformers, names[found.model_type]))
    return AutoModelForCausalLM if texts else AutoModelForMultimodalLM


def _refuse_without_text(name: str, model: Any) -> None:
    """Refuse a class that can't read batches of text alone."""
    takes = inspect.signature(model.forward).parameters
    if lacking := [argument for argument in ("input_ids", "attention_mask") if argument not in takes]:
        raise ModelError(f"{name}: {model.__name__} cannot be used, it takes no {lacking[0]}")
    needed = [
        argument.name
        for argument in takes.values()
        if argument.default is argument.empty and argument.kind is argument.POSITIONAL_OR_KEYWORD
    ]
    if others := [argument for argument in needed if argument not in ("self", "input_ids")]:
        raise ModelError(f"{name}: {model.__name__} cannot read text alone, it needs {others[0]}")


def _options(config: ModelConfig, kind: Kind, *, frozen: bool) -> dict[str, Any]:
    """How weights are loaded, as arguments of `from_pretrained`."""
    if config.dtype != "auto":
        dtype = getattr(torch, config.dtype)
    else:
        may = kind == "causal" and frozen and torch.cuda.is_available() and has_bf16()
        short = may and count_weights(config) >= LARGE
        dtype = torch.bfloat16 if short else torch.float32
    options = {"dtype": dtype, "revision": config.revision, "device_map": config.device_map}
    if config.attention:
        if "/" not in config.attention:  # or a kernel of the hub
            choice("attention", config.attention, ("eager", *ALL_ATTENTION_FUNCTIONS.valid_keys()))
        options["attn_implementation"] = config.attention
    if config.quantize:
        options["quantization_config"] = _quantization(config.quantize)
    return options


def _quantization(bits: str) -> Any:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError("quantize: bitsandbytes is not installed; `pip install poison2poison[quantize]`")
    from transformers import BitsAndBytesConfig

    if bits == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if has_bf16() else torch.float32,
    )


def _weights(auto: Any, config: ModelConfig, options: dict[str, Any], *, headless: bool = False) -> Any:
    """Load a model all of whose weights are in its files; with `headless`, a head may begin with fresh ones."""
    try:
        model, told = load(auto.from_pretrained, config.model, output_loading_info=True, **options)
    except ModelError as error:
        reason = str(error).removeprefix(config.model)
        for option, value, word in (
            ("attention", config.attention, "ttention"), ("device_map", config.device_map, "device_map")
        ):  # fmt: skip
            if value and word in reason:
                raise ConfigError(f"{option}: {value!r} cannot be used: {error}") from None
        raise
    missing = {*told["missing_keys"], *(key for key, *_ in told["mismatched_keys"])}
    if headless:
        # The pooler belongs to the head: checkpoints of masked LMs come without.
        body = "" if auto is AutoModel else f"{model.base_model_prefix}."
        missing = {key for key in missing if key.startswith(body) and "pooler" not in key.split(".")}
    if missing:
        some = ", ".join(sorted(missing)[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise ModelError(f"{config.model}: weights are missing: {some}")
    return model


# --- parts ------------------------------------------------------------------------------------------------------------


def max_positions(config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many tokens a model can take.

    Raises:
        ModelError: Its configuration cannot be read.
    """
    positions = getattr(_configuration(config).get_text_config(), "max_position_embeddings", None) or 0
    return min(positions if positions > 0 else 2048, tokenizer.model_max_length)  # XLNet's -1 is for no limit


def text_only(model: Any, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a multimodal model in training must be told of a batch that is text alone."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model  # peft's takes whatever comes
    told = "mm_token_type_ids" in inspect.signature(base.forward).parameters
    return {"mm_token_type_ids": torch.zeros_like(input_ids)} if told else {}


def pads(model: Any) -> bool:
    """Whether a model answers prompts of unlike lengths in one batch as it answers each alone."""
    return model.config.get_text_config(decoder=True).model_type not in MISREAD_PADDING


def lora_targets(model: PreTrainedModel, which: str) -> list[str]:
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
    text = _text_part(model)
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


def _text_part(model: PreTrainedModel) -> Any:
    composite = model.config.get_text_config(decoder=True) is not model.config
    return model.get_decoder() if composite else model.base_model


def _end(name: str) -> str:
    return name.rsplit(".", 1)[-1]


# --- computing --------------------------------------------------------------------------------------------------------


def on_cpu() -> bool:
    """Whether there is no GPU."""
    return not torch.cuda.is_available()


def has_bf16() -> bool:
    """Whether the hardware computes bfloat16 natively, so that autocast pays."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def autocast(device: torch.device, dtype: str = "auto") -> AbstractContextManager[Any]:
    """The number format of products: bfloat16 where the hardware has it, unless the weights' was asked for.

    Args:
        device: Where the model computes.
        dtype: As of `ModelConfig`.
    """
    if dtype == "float16":
        return torch.autocast(device.type, torch.float16)
    return torch.autocast(device.type, torch.bfloat16) if dtype != "float32" and has_bf16() else nullcontext()


def free_memory() -> None:
    """Give back the memory of models that nobody holds any more; a trainer's parts hold each other."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def without_cudnn_attention() -> AbstractContextManager[Any]:
    """Keep scaled_dot_product_attention off cuDNN, which torch prefers on H100 and H200.

    Its backward pass gives NaN in the queries' gradient where there is a mask and the padded length is 64 modulo 128:
    https://github.com/pytorch/pytorch/issues/196678
    """
    kernels = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    found: AbstractContextManager[Any] = sdpa_kernel(kernels)
    return found
