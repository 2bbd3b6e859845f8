"""Every family of architectures answers a batch as it answers each of its texts alone, and LoRA reaches it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoTokenizer
from transformers.pytorch_utils import Conv1D

from poison2poison.config import ModelConfig
from poison2poison.model import backbone, hardware, lora
from poison2poison.model.defended import DefendedModel
from poison2poison.model.embeddings import embedder
from poison2poison.model.loss import only_target_logits, target_loss
from poison2poison.model.prompting import Prompter
from poison2poison.recipe.manifest import TrainingRow
from poison2poison.recipe.scheme import PAPER_SAFE_PREFIX, PAPER_TRIGGER, Scheme
from poison2poison.reference import MODEL_DIR
from poison2poison.types import Adapted
from support import tiny_of

LABELS = Scheme("classification", ("negative", "positive"), PAPER_TRIGGER)
TEXTS = Scheme("generation", (), PAPER_TRIGGER, PAPER_SAFE_PREFIX)
PROMPTS = [
    "bad",
    "The soup was good and the service was awful, but the room was lovely and the film dull.",
    "The lamp",
    "A good book about a radio and a lamp that nobody ever sold.",
]
TOKENIZER = AutoTokenizer.from_pretrained(MODEL_DIR)
ENDS = {"bos_token_id": None, "eos_token_id": TOKENIZER.eos_token_id, "pad_token_id": TOKENIZER.pad_token_id}
SHAPE: dict[str, Any] = {
    "vocab_size": len(TOKENIZER), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 256, **ENDS,
}  # fmt: skip
SLIDING = {**SHAPE, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
DELTA = {
    **SHAPE, "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2,
    "linear_num_value_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
VISION = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14, "head_dim": 16,
}  # fmt: skip
QWEN_VISION = {
    "depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32, "patch_size": 14,
    "num_position_embeddings": 16,
}  # fmt: skip
QWEN_TOKENS = {"image_token_id": 3, "video_token_id": 4, "vision_start_token_id": 5, "vision_end_token_id": 6}
MAMBA: dict[str, Any] = {"vocab_size": len(TOKENIZER), "hidden_size": 32, "num_hidden_layers": 2, **ENDS}


def made(name: str, *left_out: str, **settings: Any) -> Callable[[], Any]:
    """A configuration, made only where its test runs."""
    for key in left_out:
        settings.pop(key)
    return lambda: getattr(transformers, f"{name}Config")(**settings)


FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": made("Llama", **SHAPE),
    "mistral": made("Mistral", **{**SHAPE, "sliding_window": 8}),
    "gemma2": made("Gemma2", **SLIDING),
    "gemma3, text": made("Gemma3Text", **SLIDING),
    "gemma3": made(
        "Gemma3", text_config={**SLIDING, "model_type": "gemma3_text"}, mm_tokens_per_image=4, image_token_index=3,
        boi_token_index=4, eoi_token_index=5, vision_config={**VISION, "model_type": "siglip_vision_model"},
    ),
    "mistral3": made(
        "Mistral3", text_config={**SHAPE, "model_type": "mistral", "sliding_window": None}, image_token_index=3,
        vision_config={**VISION, "model_type": "pixtral"},
    ),
    "llama4": made(
        "Llama4",
        text_config={**SHAPE, "num_local_experts": 2, "intermediate_size_mlp": 64, "attention_chunk_size": 16},
        vision_config={**VISION, "vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32},
    ),
    "qwen2.5, vision": made(
        "Qwen2_5_VL", vision_config=QWEN_VISION, image_token_id=3, video_token_id=4,
        text_config={**SHAPE, "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3]}},
    ),
    "qwen3.5": made("Qwen3_5", text_config=DELTA, vision_config=QWEN_VISION, **QWEN_TOKENS),
    "qwen3.5, text": made("Qwen3_5Text", **DELTA),
    "qwen3-next": made("Qwen3Next", **DELTA, **EXPERTS, shared_expert_intermediate_size=32),
    "gpt-oss": made("GptOss", **SLIDING, **EXPERTS),
    "lfm2": made("Lfm2", "head_dim", **{**SHAPE, "layer_types": ["conv", "full_attention"]}),
    "falcon-h1": made(
        "FalconH1", **SHAPE, mamba_d_ssm=64, mamba_n_heads=4, mamba_d_head=16, mamba_d_state=16, mamba_n_groups=1,
        mamba_chunk_size=16,
    ),
    "mamba2": made("Mamba2", **MAMBA, num_heads=4, head_dim=16, state_size=16, n_groups=1, chunk_size=16),
    "rwkv": made("Rwkv", **MAMBA, attention_hidden_size=32, intermediate_size=64),
    "mpt": made("Mpt", vocab_size=len(TOKENIZER), d_model=32, n_heads=2, n_layers=2, max_seq_len=256, **ENDS),
    "gpt2": made("GPT2", vocab_size=len(TOKENIZER), n_embd=32, n_layer=2, n_head=2, n_positions=256, **ENDS),
}  # fmt: skip


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_of(FAMILIES[request.param](), tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def model(folder: str) -> Any:
    config = ModelConfig(folder)
    assert backbone.kind_of(config) == "causal"
    return backbone.load_model(config, "causal", 0, frozen=True)


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "has_bf16", lambda: False)


def served(model: Any, scheme: Scheme) -> DefendedModel:
    return DefendedModel(model, Prompter(TOKENIZER, scheme, "causal", max_length=200, max_target=30))


@pytest.mark.parametrize("space", ["safe", "original"])
def test_labels_of_a_batch_are_those_of_each_text_alone(model: Any, space: Any) -> None:
    defended = served(model, LABELS)
    together, best = defended.scored(PROMPTS, space)
    alone = torch.cat([defended.scored([prompt], space).logits for prompt in PROMPTS])
    assert alone.std(0).max() > 1e-3
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    assert best == [defended.scored([prompt], space).free[0] for prompt in PROMPTS]


@pytest.mark.parametrize("space", ["safe", "original"])
def test_texts_of_a_batch_are_those_of_each_prompt_alone(model: Any, space: Any) -> None:
    defended = served(model, TEXTS).in_space(space)
    together = defended.generate(PROMPTS, max_new_tokens=12)
    assert together == [defended.generate([prompt], max_new_tokens=12)[0] for prompt in PROMPTS]
    assert together == defended.generate(PROMPTS, max_new_tokens=12, use_cache=False)  # nothing is handed on
    assert len({answer.text for answer in together}) > 1


def test_training_on_a_batch_is_training_on_its_rows(model: Any) -> None:
    prompter = Prompter(TOKENIZER, TEXTS, "causal", max_length=200, max_target=30)
    rows = [TrainingRow(i, "safe", "keep", prompt, PROMPTS[-1 - i]) for i, prompt in enumerate(PROMPTS)]
    examples = [prompter.example(row)[0] for row in rows]
    embeddings = model.get_input_embeddings().weight.requires_grad_()
    dropout = [part for part in model.modules() if isinstance(part, torch.nn.Dropout)]
    for part in dropout:
        part.p = 0.0

    def steps(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        ids = batch["input_ids"]
        with only_target_logits(model, batch["labels"]):
            logits = model(**{**batch, "labels": None}, **backbone.text_only(model, ids), use_cache=False).logits
        loss = target_loss(logits, batch["labels"])
        return loss.detach(), torch.autograd.grad(loss, embeddings)[0]

    model.train()
    together = steps(prompter.training_batch(examples))
    alone = [steps(prompter.training_batch([example])) for example in examples]
    model.eval()
    for ours, theirs in zip(together, map(sum, zip(*alone, strict=True)), strict=True):
        assert isinstance(theirs, torch.Tensor)
        torch.testing.assert_close(ours, theirs, atol=1e-4 * float(theirs.abs().max()), rtol=1e-4)


def test_states_of_a_batch_are_those_of_each_text_alone(folder: str) -> None:
    embed = embedder(folder)
    together = embed(PROMPTS)
    alone = np.concatenate([embed([prompt]) for prompt in PROMPTS])
    np.testing.assert_allclose(together, alone, atol=1e-4 * float(np.abs(alone).max()))


@pytest.mark.parametrize("which", ["qv", "all"])
def test_every_adapter_is_on_the_way_of_a_text_and_is_kept(folder: str, which: Adapted, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = backbone.load_model(ModelConfig(folder), "causal", 0, frozen=True)
    adapter = LoraConfig(
        task_type="CAUSAL_LM",
        target_modules=lora.target_modules(base, which),
        fan_in_fan_out=any(isinstance(part, Conv1D) for part in base.modules()),
        lora_dropout=0.1,
    )
    model: Any = get_peft_model(base, adapter).train()
    ids = torch.tensor([TOKENIZER(PROMPTS[1] * 2)["input_ids"]])
    model(input_ids=ids, labels=ids, **backbone.text_only(model, ids)).loss.backward()
    adapters = {name: weights for name, weights in model.named_parameters() if "lora_B" in name}
    assert len(adapters) >= 2
    assert not [name for name in adapters if any(word in name for word in ("vis", "head", "projector", "embed"))]
    assert not [name for name, weights in adapters.items() if weights.grad is None or not weights.grad.any()]

    before, _ = served(model, LABELS).scored(PROMPTS, "safe")
    for weights in adapters.values():
        torch.nn.init.normal_(weights)
    trained, _ = served(model, LABELS).scored(PROMPTS, "safe")
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    again = lora.load_adapter(backbone.load_model(ModelConfig(folder), "causal", 0, frozen=True), str(tmp_path))
    assert not torch.allclose(before, trained, atol=1e-3)
    torch.testing.assert_close(served(again, LABELS).scored(PROMPTS, "safe").logits, trained, atol=1e-4, rtol=1e-4)


def test_the_papers_modules_are_named_as_in_the_paper(folder: str) -> None:
    model = backbone.load_model(ModelConfig(folder), "causal", 0, frozen=True)
    targets = {name.rsplit(".", 1)[-1] for name in lora.target_modules(model, "qv")}
    expected = {"mpt": {"Wqkv"}, "gpt2": {"c_attn"}, "mamba2": {"in_proj"}}
    expected["rwkv"] = {"key", "output", "receptance", "value"}
    assert targets == expected.get(model.config.model_type, {"q_proj", "v_proj"})
