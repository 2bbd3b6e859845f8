"""Base models: any causal LM of transformers, also behind a vision tower, and encoders with a classification head."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
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
from transformers.utils.hub import cached_file, extract_commit_hash

from poison2poison.config import REFERENCE, ModelConfig, choice
from poison2poison.errors import ConfigError, ModelError, P2PError
from poison2poison.model import hardware
from poison2poison.reference import MODEL_DIR
from poison2poison.types import Bits, ModelKind

LARGE = 500_000_000
"""Weights from which on those that are not trained are kept in bfloat16 on a GPU."""

# Listed among the causal LMs, though each of their tokens sees the later ones too.
BIDIRECTIONAL = ("bert-generation", "cpmant", "diffusion_gemma", "xlnet")

# Their batched answers are not those of each prompt alone (transformers 5.23): the first ignores the mask, the second
# groups tokens by their place in the padded row, the others take wrong steps behind padding.
MISREAD_PADDING = ("rwkv", "deepseek_v4", "glm_moe_dsa", "minimax")

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
    with told(config.model):
        found: str | None = extract_commit_hash(cached_file(path, "config.json", revision=config.revision), None)
    return found


# --- kinds ------------------------------------------------------------------------------------------------------------


def kind_of(config: ModelConfig) -> ModelKind:
    """Whether a model writes text or is an encoder, which a classification head is put on.

    The configuration's architectures decide, by transformers' own lists of what is what; where they are on no list, the
    model type does.

    Raises:
        ModelError: The configuration cannot be read, or is of neither kind.
    """
    if config.kind != "auto":
        return config.kind
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


def _kind_of_architecture(name: str, config: PretrainedConfig) -> ModelKind | None:
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


def _kind_of_type(model_type: str) -> ModelKind | None:
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


def load_model(
    model: ModelConfig | str, kind: ModelKind, outputs: int, *, frozen: bool, with_head: bool = False
) -> Any:
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
    options = how_to_load(config, kind, frozen=frozen)
    if kind == "causal":
        return _weights(_causal(config), config, options)
    options |= {"num_labels": outputs, "ignore_mismatched_sizes": True}
    loaded = _weights(AutoModelForSequenceClassification, config, options, headless=not with_head)
    # A decoder with a classification head finds each text's last token by what it is padded with.
    padding = load_tokenizer(config).pad_token_id
    loaded.config.pad_token_id = loaded.config.get_text_config().pad_token_id = padding
    return loaded


def load_body(config: ModelConfig, kind: ModelKind) -> Any:
    """Load a model without its head, as frozen weights: of a multimodal one the part that reads text.

    Raises:
        ModelError: As of `load_model`.
        ConfigError: As of `load_model`.
    """
    return text_part(_weights(AutoModel, config, how_to_load(config, kind, frozen=True), headless=True))


def count_weights(config: ModelConfig) -> int:
    """How many weights a model has, without loading them.

    Raises:
        ModelError: As of `kind_of`.
    """
    return int(skeleton(config).num_parameters())


def skeleton(config: ModelConfig) -> Any:
    """A model whose weights have shapes and no values.

    Raises:
        ModelError: As of `kind_of`.
    """
    auto = _causal(config) if kind_of(config) == "causal" else AutoModelForSequenceClassification
    with told(config.model), torch.device("meta"):
        return auto.from_config(_configuration(config), trust_remote_code=False)


def template_hash(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """SHA-256 of a chat template; None where there is none."""
    template = tokenizer.chat_template
    return hashlib.sha256(json.dumps(template).encode()).hexdigest() if template else None


def load(from_pretrained: Callable[..., Any], name: str, **options: Any) -> Any:
    """Load from a folder or hub name with one of transformers' `from_pretrained`; code that lies there is never run.

    Raises:
        ModelError: It cannot be loaded.
    """
    options = {option: value for option, value in options.items() if value is not None}
    with told(name):
        return from_pretrained(locate(name), trust_remote_code=False, **options)


@contextlib.contextmanager
def told(name: str) -> Iterator[None]:
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


def how_to_load(config: ModelConfig, kind: ModelKind, *, frozen: bool) -> dict[str, Any]:
    """How weights are loaded, as arguments of `from_pretrained`.

    Raises:
        ConfigError: There is no such attention kernel, or what quantizes is not installed.
        ModelError: As of `count_weights`.
    """
    if config.dtype != "auto":
        dtype = getattr(torch, config.dtype)
    else:
        may = kind == "causal" and frozen and torch.cuda.is_available() and hardware.has_bf16()
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


def _quantization(bits: Bits) -> Any:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError("quantize: bitsandbytes is not installed; `pip install poison2poison[quantize]`")
    from transformers import BitsAndBytesConfig

    if bits == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if hardware.has_bf16() else torch.float32,
    )


def _weights(auto: Any, config: ModelConfig, options: dict[str, Any], *, headless: bool = False) -> Any:
    """Load a model all of whose weights are in its files; with `headless`, a head may begin with fresh ones."""
    try:
        model, told = load(auto.from_pretrained, config.model, output_loading_info=True, **options)
    except ModelError as error:
        reason = str(error).removeprefix(config.model)
        blamed = {"attention": "ttention", "device_map": "device_map"}  # words of transformers' messages
        for option, word in blamed.items():
            value = getattr(config, option)
            if value and word in reason:
                raise ConfigError(f"{option}: {value!r} cannot be used: {error}") from None
        raise
    mismatched = [key for key, *_ in told["mismatched_keys"]]
    missing = {*told["missing_keys"], *mismatched}
    if headless:
        # The pooler belongs to the head: checkpoints of masked LMs come without.
        body = "" if auto is AutoModel else f"{model.base_model_prefix}."
        missing = {key for key in missing if key.startswith(body) and "pooler" not in key.split(".")}
    if missing:
        some = ", ".join(sorted(missing)[:3])
        some += f" and {len(missing) - 3} more" if len(missing) > 3 else ""
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


def takes_positions(model: Any) -> bool:
    """Whether a causal LM is told the places of its tokens, and does not take those of the batch."""
    return "position_ids" in inspect.signature(model.get_decoder().forward).parameters


def text_part(model: PreTrainedModel) -> Any:
    composite = model.config.get_text_config(decoder=True) is not model.config
    return model.get_decoder() if composite else model.base_model
