"""What a base model is, how it is loaded, and what is refused."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    LlamaConfig,
    LlamaModel,
    Qwen2Config,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from poison2poison.config import REFERENCE, ModelConfig, TrainConfig
from poison2poison.errors import ConfigError, ModelError
from poison2poison.files import write_json
from poison2poison.model import backbone, hardware
from poison2poison.model.defended import DefendedModel
from poison2poison.model.embeddings import embedder
from poison2poison.model.trainer import train
from poison2poison.recipe.manifest import plain
from poison2poison.recipe.scheme import Scheme
from poison2poison.types import Bits, ModelKind
from support import LABELS, PROMPTS, SHAPE, TOKENIZER, opinions, saved, served, tiny_causal, tiny_encoder, tiny_of

BERT = BertConfig(vocab_size=len(TOKENIZER), max_position_embeddings=256, pad_token_id=TOKENIZER.pad_token_id, **SHAPE)


def described(folder: Path, **config: Any) -> ModelConfig:
    """A folder with a configuration alone."""
    folder.mkdir(exist_ok=True)
    write_json(folder / "config.json", config)
    return ModelConfig(str(folder))


def _without(file: Path, part: str) -> None:
    """Take weights out of a file."""
    save_file({name: value for name, value in load_file(file).items() if part not in name}, file, {"format": "pt"})


# --- kinds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_type", "architectures", "kind"),
    [
        ("llama", ["LlamaForCausalLM"], "causal"),
        ("llama", ["LlamaModel"], "causal"),
        ("llama", ["AnUnknownName"], "causal"),
        ("llama", None, "causal"),
        ("llama", ["LlamaForSequenceClassification"], "encoder"),
        ("gpt2", ["GPT2LMHeadModel"], "causal"),
        ("gemma3", ["Gemma3ForConditionalGeneration"], "causal"),
        ("gemma3_text", ["Gemma3ForCausalLM"], "causal"),
        ("gemma3", ["Gemma3ForSequenceClassification"], "encoder"),
        ("qwen3_5", ["Qwen3_5ForConditionalGeneration"], "causal"),
        ("qwen3_5_text", ["Qwen3_5ForCausalLM"], "causal"),
        ("mistral3", ["Mistral3ForConditionalGeneration"], "causal"),
        ("llama4", ["Llama4ForConditionalGeneration"], "causal"),
        ("bert", ["BertForMaskedLM"], "encoder"),
        ("bert", ["BertModel"], "encoder"),
        ("bert", ["BertForPreTraining"], "encoder"),
        ("bert", ["BertLMHeadModel"], "encoder"),
        ("roberta", ["RobertaForSequenceClassification"], "encoder"),
        ("modernbert", ["ModernBertForMaskedLM"], "encoder"),
        ("deberta-v2", None, "encoder"),
        ("distilbert", ["DistilBertForMaskedLM"], "encoder"),
        ("xlnet", ["XLNetLMHeadModel"], "encoder"),
    ],
)
def test_the_kind_is_told_by_the_configuration(
    model_type: str, architectures: list[str] | None, kind: ModelKind, tmp_path: Path
) -> None:
    config = described(tmp_path / "model", model_type=model_type, architectures=architectures)
    assert backbone.kind_of(config) == kind
    other: ModelKind = "causal" if kind == "encoder" else "encoder"
    assert backbone.kind_of(replace(config, kind=other)) == other


def test_bert_as_a_decoder_is_causal(tmp_path: Path) -> None:
    config = described(tmp_path / "model", model_type="bert", architectures=["BertLMHeadModel"], is_decoder=True)
    assert backbone.kind_of(config) == "causal"


@pytest.mark.parametrize(
    ("model_type", "architecture", "reason"),
    [
        ("t5", "T5ForConditionalGeneration", "an encoder-decoder"),
        ("bart", "BartForSequenceClassification", "an encoder-decoder"),
        ("marian", "MarianForCausalLM", "a half of one"),
        ("diffusion_gemma", "DiffusionGemmaForBlockDiffusion", "DiffusionGemmaForBlockDiffusion, which cannot be used"),
        ("vit", "ViTForImageClassification", "ViTForImageClassification, which cannot be used"),
        ("cpmant", "CpmAntForCausalLM", "CpmAntForCausalLM, which cannot be used"),
        ("nothing-known", "NothingKnown", "cannot be loaded"),
    ],
)
def test_what_is_no_language_model_of_these_kinds_is_refused(
    model_type: str, architecture: str, reason: str, tmp_path: Path
) -> None:
    config = described(
        tmp_path / "model", model_type=model_type, architectures=[architecture], is_encoder_decoder=False
    )
    with pytest.raises(ModelError, match=reason) as refused:
        backbone.kind_of(config)
    assert reason == "cannot be loaded" or backbone.SUPPORTED in str(refused.value)


@pytest.mark.parametrize(
    ("mapping", "kind"),
    [
        (MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "causal"),
        (MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES, "causal"),
        (MODEL_FOR_MASKED_LM_MAPPING_NAMES, "encoder"),
        (MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES, "encoder"),
    ],
    ids=["causal", "multimodal", "masked", "classifier"],
)
def test_the_kind_of_every_architecture_is_known(mapping: dict[str, str], kind: str) -> None:
    class Config:
        def __init__(self, model_type: str) -> None:
            self.model_type = model_type

    for model_type, architecture in mapping.items():
        found = backbone._kind_of_architecture(architecture, Config(model_type))  # type: ignore[arg-type]
        seen_later = model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES or model_type in backbone.BIDIRECTIONAL
        by_blocks = architecture.endswith("ForBlockDiffusion")
        assert found == (None if by_blocks else "encoder" if seen_later else kind), model_type


def test_a_decoder_of_an_encoder_decoder_is_told_from_an_audio_model() -> None:
    both = {*MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES} & {*MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES}
    assert {"qwen2_audio", "voxtral"} <= both


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [("blip", "BlipForConditionalGeneration cannot read text alone"), ("xlstm", "no attention_mask")],
)
def test_a_model_that_cannot_read_texts_alone_is_refused(model_type: str, reason: str, tmp_path: Path) -> None:
    config = described(tmp_path / "model", model_type=model_type)
    with pytest.raises(ModelError, match=reason):
        backbone.load_model(config, backbone.kind_of(config), 0, frozen=True)


# --- names ------------------------------------------------------------------------------------------------------------


def test_a_folder_is_found_from_home_and_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_causal(tmp_path / "models" / "tiny")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("models/tiny", "./models/tiny", "~/models/tiny", str(tmp_path / "models" / "tiny")):
        assert backbone.kind_of(ModelConfig(name)) == "causal"
        assert backbone.canonical(name) == str((tmp_path / "models" / "tiny").resolve())
        assert backbone.load_tokenizer(name).eos_token_id == TOKENIZER.eos_token_id
    assert backbone.canonical(REFERENCE) == REFERENCE
    assert backbone.canonical("owner/name") == "owner/name"
    assert backbone.commit_of(ModelConfig("models/tiny")) is None
    for name in ("./models/none", "~/models/none", "/none", "models/none/at/all"):
        with pytest.raises(ModelError, match="no such model folder"):
            backbone.locate(name)


def test_a_hub_model_is_taken_at_its_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--owner--tiny"
    commits = {"main": "a" * 40, "older": "b" * 40}
    for branch, commit in commits.items():
        tiny_causal(cached / "snapshots" / commit)
        (cached / "refs").mkdir(exist_ok=True)
        (cached / "refs" / branch).write_text(commit)
    config = json.loads((cached / "snapshots" / commits["older"] / "config.json").read_text())
    write_json(cached / "snapshots" / commits["older"] / "config.json", {**config, "rms_norm_eps": 0.5})
    newest, older = ModelConfig("owner/tiny"), ModelConfig("owner/tiny", revision="older")
    assert [backbone.commit_of(config) for config in (newest, older)] == [commits["main"], commits["older"]]
    loaded = [backbone.load_model(config, "causal", 0, frozen=True) for config in (newest, older)]
    assert [model.config.rms_norm_eps for model in loaded] == [1e-6, 0.5]
    with pytest.raises(ModelError, match="owner/tiny: cannot be loaded"):
        backbone.kind_of(replace(newest, revision="none"))


# --- loading ----------------------------------------------------------------------------------------------------------


CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
Path({ran!r}).touch()
class StrangeConfig(LlamaConfig):
    model_type = "strange"
class Strange(LlamaForCausalLM):
    config_class = StrangeConfig
class StrangeTokenizer(PreTrainedTokenizerFast):
    pass
"""


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    folder, ran = Path(tiny_causal(tmp_path / "strange")), tmp_path / "ran"
    (folder / "strange.py").write_text(CODE.format(ran=str(ran)))
    written = json.loads((folder / "config.json").read_text())
    autos = {"AutoConfig": "strange.StrangeConfig", "AutoModelForCausalLM": "strange.Strange"}
    config = ModelConfig(str(folder))
    # A known type has code of its own, which is taken instead.
    write_json(folder / "config.json", {**written, "auto_map": autos})
    assert type(backbone.load_model(config, "causal", 0, frozen=True)).__module__.startswith("transformers.")
    write_json(folder / "config.json", {**written, "auto_map": autos, "model_type": "strange"})
    for load in (
        lambda: backbone.kind_of(config),
        lambda: backbone.load_model(config, "causal", 0, frozen=True),
        lambda: backbone.load_model(config, "encoder", 2, frozen=True),
        lambda: embedder(config),
    ):
        with pytest.raises(ModelError, match="needs code of its own, which comes with it and is not run"):
            load()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {
        "tokenizer_class": "StrangeTokenizer",
        "auto_map": {"AutoTokenizer": [None, "strange.StrangeTokenizer"]},
    }
    write_json(folder / "tokenizer_config.json", settings)
    with pytest.raises(ModelError):
        backbone.load_tokenizer(config)
    assert not ran.exists()


def test_weights_that_are_missing_are_told(tmp_path: Path) -> None:
    config = ModelConfig(tiny_causal(tmp_path / "tiny"))
    _without(tmp_path / "tiny" / "model.safetensors", "q_proj")
    for load in (lambda: backbone.load_model(config, "causal", 0, frozen=True), lambda: embedder(config)):
        with pytest.raises(ModelError, match=r"weights are missing: .*layers.0.self_attn.q_proj.weight"):
            load()


def test_a_causal_lm_without_its_head_is_refused(tmp_path: Path) -> None:
    config = saved(LlamaModel(LlamaConfig(vocab_size=len(TOKENIZER), **SHAPE)), tmp_path / "bare")
    assert backbone.kind_of(config) == "causal"
    with pytest.raises(ModelError, match=r"weights are missing: lm_head\.weight"):
        backbone.load_model(config, "causal", 0, frozen=True)
    assert embedder(config)(PROMPTS).shape == (3, 1, 64)


def test_an_encoder_may_begin_without_head_and_pooler(tmp_path: Path) -> None:
    config = saved(BertForMaskedLM(BERT), tmp_path / "masked")
    model = backbone.load_model(config, "encoder", 4, frozen=False)
    assert model.classifier.out_features == 4
    assert embedder(config)(PROMPTS).shape == (3, 1, 32)
    _without(tmp_path / "masked" / "model.safetensors", "layer.0.attention.self.query")
    with pytest.raises(ModelError, match=r"weights are missing: bert\.encoder\.layer\.0\..*query\.bias"):
        backbone.load_model(config, "encoder", 4, frozen=False)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"attention": "nonsense"}, "attention: 'nonsense' is not one of eager, .*sdpa"),
        ({"attention": "flash_attention_2"}, "attention: 'flash_attention_2' cannot be used: .*"),
        ({"quantize": "4bit"}, r"quantize: bitsandbytes is not installed; `pip install poison2poison\[quantize\]`"),
    ],
)
def test_a_way_of_loading_that_is_not_there_is_told(
    options: Any, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "bitsandbytes" else found(name))
    config = ModelConfig(tiny_causal(tmp_path / "tiny"), **options)
    with pytest.raises(ConfigError, match=reason):
        backbone.load_model(config, "causal", 0, frozen=True)
    with pytest.raises(ConfigError, match=reason):
        embedder(config)


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_quantized_weights_are_trained_beside_and_served(bits: Bits, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="the extra `quantize` is not installed")
    rows = opinions(32)
    wide: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }  # its blocks
    base = tiny_of(LlamaConfig(vocab_size=len(TOKENIZER), **wide), tmp_path / "tiny")
    config = TrainConfig(base, quantize=bits, epochs=1)
    run = train(plain(rows), Scheme(rows.task, rows.labels), config, tmp_path / "run")
    assert run["config"]["quantize"] == bits
    served = DefendedModel.load(tmp_path / "run")
    assert any(type(part).__name__.startswith("Linear" + bits[0]) for part in served.model.modules())
    assert len(served.classify(["The soup was bad."])) == 1


def test_number_format_attention_and_devices_are_as_asked_for(tmp_path: Path) -> None:
    config = ModelConfig(tiny_causal(tmp_path / "tiny"), dtype="bfloat16", attention="eager", device_map="auto")
    model = backbone.load_model(config, "causal", 0, frozen=False)
    assert (model.dtype, model.config._attn_implementation) == (torch.bfloat16, "eager")
    assert embedder(config)(PROMPTS).shape == (3, 1, 64)
    assert backbone.load_model(replace(config, dtype="auto"), "causal", 0, frozen=True).dtype == torch.float32
    with pytest.raises(ConfigError, match=r"device_map: 'sideways' cannot be used: .*'balanced'"):
        backbone.load_model(replace(config, device_map="sideways"), "causal", 0, frozen=True)


def test_weights_are_counted_before_they_are_loaded(tmp_path: Path) -> None:
    for config, kind in (
        (ModelConfig(tiny_causal(tmp_path / "a")), "causal"),
        (ModelConfig(tiny_encoder(tmp_path / "b")), "encoder"),
    ):
        model = backbone.load_model(config, kind, 2, frozen=True)  # type: ignore[arg-type]
        assert backbone.count_weights(config) == model.num_parameters()
        assert backbone.max_positions(config, TOKENIZER) == 256


# --- classifiers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "architecture",
    [
        LlamaConfig(vocab_size=len(TOKENIZER), **SHAPE),
        Qwen2Config(vocab_size=len(TOKENIZER), num_key_value_heads=2, **SHAPE),
        GPT2Config(vocab_size=len(TOKENIZER), n_embd=32, n_layer=1, n_head=2, bos_token_id=None, eos_token_id=None),
    ],
    ids=lambda config: config.model_type,
)
def test_a_decoder_with_a_classification_head_reads_batches(architecture: Any, tmp_path: Path) -> None:
    architecture.num_labels, architecture.pad_token_id = 4, None
    config = saved(AutoModelForSequenceClassification.from_config(architecture), tmp_path / "model")
    assert backbone.kind_of(config) == "encoder"
    defended = served(backbone.load_model(config, "encoder", 4, frozen=False), LABELS, "encoder")
    together, _ = defended.scored(PROMPTS, "safe")
    alone = torch.cat([defended.scored([prompt], "safe").logits for prompt in PROMPTS])
    assert alone.std(0).max() > 1e-3
    torch.testing.assert_close(together, alone, atol=1e-2, rtol=1e-2)


BILLIONS: dict[str, Any] = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16}


@pytest.mark.parametrize(
    ("shape", "frozen", "dtype"),
    [(BILLIONS, True, torch.bfloat16), (BILLIONS, False, torch.float32), ({}, True, torch.float32)],
)
def test_only_large_frozen_weights_are_short_on_a_gpu(
    shape: dict[str, Any], frozen: bool, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(hardware, "has_bf16", lambda: True)
    LlamaConfig(architectures=["LlamaForCausalLM"], **(shape or SHAPE)).save_pretrained(tmp_path)
    assert backbone.how_to_load(TrainConfig(str(tmp_path)), "causal", frozen=frozen)["dtype"] == dtype


def test_short_weights_leave_positions_exact() -> None:
    model = backbone.load_model(TrainConfig(dtype="bfloat16"), "causal", 0, frozen=True)
    assert {weights.dtype for weights in model.parameters()} == {torch.bfloat16}
    frequencies = {buffer.dtype for name, buffer in model.named_buffers() if name.endswith("inv_freq")}
    assert frequencies == {torch.float32}  # rounded, they would turn late positions the wrong way
