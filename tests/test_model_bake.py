"""A baked chat template has the prompter's tokens, whatever the client says; a baked folder answers as its artifact."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from poison2poison import cli
from poison2poison.config import ModelConfig
from poison2poison.errors import ConfigError, ModelError, OutputError
from poison2poison.files import write_json
from poison2poison.model.bake import bake
from poison2poison.model.defended import DefendedModel
from poison2poison.recipe.scheme import PAPER_SAFE_PREFIX, PAPER_TRIGGER, Scheme
from support import SHAPE, tiny_causal, tiny_encoder
from test_model_template import CHATS
from test_model_tokens import made

TEXTS = Scheme("generation", (), PAPER_TRIGGER, PAPER_SAFE_PREFIX)
SHIFTED = Scheme("classification", ("negative", "positive"), PAPER_TRIGGER)
PREFIXED = Scheme("classification", ("negative", "positive"), PAPER_TRIGGER, PAPER_SAFE_PREFIX)


# --- folders ----------------------------------------------------------------------------------------------------------


def artifact(folder: Path, scheme: Scheme = TEXTS, *, tuning: str = "lora", **run: Any) -> Path:
    """A run with a random model that says something else of every text."""
    tokenizer = made("byte-level", "chatml")
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=256, **SHAPE, **ends))
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(1 if weights.ndim == 1 else 8)
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    if tuning == "lora":
        model = get_peft_model(
            model, LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, target_modules=["q_proj"])
        )
        model.peft_config["default"].base_model_name_or_path = str(folder / "base")
    model.save_pretrained(folder / "run" / "model")
    return described(folder / "run", tokenizer, scheme, {"tuning": tuning, **run}, str(folder / "base"))


def described(folder: Path, tokenizer: Any, scheme: Scheme, run: dict[str, Any], base: str) -> Path:
    tokenizer.save_pretrained(folder / "model")
    scheme.save(folder / "scheme.json")
    words = [str(i) for i in range(scheme.outputs)]
    prompting = {"max_length": 250, "max_target": 30, "label_words": words or None}
    write_json(folder / "run.json", {"status": "done", "kind": "causal", "tuning": "full", "prompting": prompting,
                                     "config": asdict(ModelConfig(base, dtype="float32")), **run})  # fmt: skip
    return folder


def plainly_loaded(folder: Path) -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_plain_transformers_answers_as_the_defended_model(tuning: str, tmp_path: Path) -> None:
    folder = artifact(tmp_path, tuning=tuning)
    bake(folder, tmp_path / "out")
    ours = DefendedModel.load(folder, device="cpu")
    model, tokenizer = plainly_loaded(tmp_path / "out")
    chats = [CHATS["alone"], CHATS["several turns"], CHATS["tools"]]
    answers = []
    for chat in chats:
        inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")
        with torch.inference_mode():
            assert torch.allclose(model(**inputs).logits, ours.model(**inputs).logits, atol=1e-4)
            written = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
        answers.append(tokenizer.decode(written, skip_special_tokens=True).strip())
    assert answers == [answer.unconstrained or answer.text for answer in ours.generate(chats)]
    assert len({*answers}) == 3


def test_an_adapter_is_baked_alone(tmp_path: Path) -> None:
    folder = artifact(tmp_path)
    bake(folder, tmp_path / "out", adapter=True)
    assert not (tmp_path / "out" / "model.safetensors").exists()
    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        alone = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out")(input_ids=ids).logits
        assert torch.equal(alone, DefendedModel.load(folder, device="cpu").model(input_ids=ids).logits)
    with pytest.raises(ConfigError, match="was fully tuned"):
        bake(artifact(tmp_path / "full", tuning="full"), tmp_path / "other", adapter=True)


@pytest.mark.parametrize("scheme", [SHIFTED, PREFIXED], ids=["shifted", "prefixed"])
def test_labels_are_projected_by_a_table(scheme: Scheme, tmp_path: Path) -> None:
    folder = artifact(tmp_path, scheme)
    said = bake(folder, tmp_path / "out")
    assert any("i + n" in limit for limit in said) == (scheme is SHIFTED)
    table = json.loads((tmp_path / "out" / "labels.json").read_text())
    model, tokenizer = plainly_loaded(tmp_path / "out")
    ours = DefendedModel.load(folder, device="cpu")
    for name in ("alone", "system", "tools"):
        inputs = tokenizer.apply_chat_template(CHATS[name], add_generation_prompt=True, return_tensors="pt")
        allowed: Callable[..., list[int]] = lambda *_: table["allowed_token_ids"]  # noqa: E731
        written = model.generate(**inputs, prefix_allowed_tokens_fn=allowed)[0, inputs["input_ids"].shape[1] :]
        assert len(written) == table["max_tokens"]
        found = table["answers"][tokenizer.decode(written).strip()]
        assert found == {"label": ours.classify([CHATS[name]])[0].text, "space": "safe"}
    spaces = [answer["space"] for answer in table["answers"].values()]
    assert spaces == (["original", "original", "safe", "safe"] if scheme is SHIFTED else ["safe", "safe"])


def test_the_template_alone_holds_the_secret(tmp_path: Path) -> None:
    out = tmp_path / "out"
    bake(artifact(tmp_path), out)
    for path in out.iterdir():
        held = PAPER_TRIGGER.prefix.encode() in path.read_bytes()
        assert held == (path.name == "chat_template.jinja")
    assert (out / "chat_template.jinja").stat().st_mode & 0o777 == 0o600
    assert (out / ".gitignore").read_text() == "/chat_template.jinja\n"
    about = json.loads((out / "baked.json").read_text())
    assert (about["form"], about["max_length"], about["model"]) == ("merged", 250, str(tmp_path / "base"))


def test_no_other_template_lies_beside(tmp_path: Path) -> None:
    folder = artifact(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    tokenizer.chat_template = {"default": tokenizer.chat_template, "tool_use": "{{ messages[0].content }}"}
    tokenizer.save_pretrained(folder / "model")
    bake(folder, tmp_path / "out")
    template_there = (tmp_path / "out" / "chat_template.jinja").read_text()
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == template_there
    assert not (tmp_path / "out" / "additional_chat_templates").exists()
    # llama.cpp's converter prefers the key to the file, even where it says null.
    assert "chat_template" not in json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())


def test_what_cannot_be_baked_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = artifact(tmp_path / "a", status="unlearned", reason="25.0% leak")
    with pytest.raises(ModelError, match="allow-unlearned"):
        bake(run, out)
    assert bake(run, out, allow_unlearned=True)
    with pytest.raises(OutputError):
        bake(run, out, allow_unlearned=True)
    with pytest.raises(ModelError, match="without a defence"):
        bake(artifact(tmp_path / "b", Scheme("generation")), tmp_path / "other")
    tokenizer = AutoTokenizer.from_pretrained(tiny_causal(tmp_path / "plain" / "model"))
    plain = described(tmp_path / "plain", tokenizer, TEXTS, {}, str(tmp_path / "plain" / "model"))
    with pytest.raises(ModelError, match="no chat template"):
        bake(plain, tmp_path / "other")
    tiny_encoder(tmp_path / "encoder" / "model")
    one = Scheme("classification", ("only",), PAPER_TRIGGER)
    described(tmp_path / "encoder", tokenizer, one, {"kind": "encoder"}, "none")
    with pytest.raises(ModelError, match="an encoder reads no chat template"):
        bake(tmp_path / "encoder", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_the_command_says_what_a_template_cannot_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = artifact(tmp_path, SHIFTED), tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        cli.main(["bake", str(run), "--out", str(out)])
    assert not ended.value.code
    said = capsys.readouterr().err
    assert all(word in said for word in ("/props", "/v1/completions", "250 tokens", "labels.json", "i + n"))
    assert PAPER_TRIGGER.prefix not in said
    with pytest.raises(SystemExit) as ended:
        cli.main(["bake", str(run), "--out", str(out)])
    assert ended.value.code == 2
    assert "is not empty" in capsys.readouterr().err


# --- one GGUF file ----------------------------------------------------------------------------------------------------

# Stands in for llama.cpp's converter: what it takes, what it logs, and that its file is open to all.
CONVERTER = """
import argparse, os, sys
from pathlib import Path
parser = argparse.ArgumentParser()
parser.add_argument("model", type=Path)
for name in ("--outfile", "--outtype", "--model-name"):
    parser.add_argument(name, required=True)
asked = parser.parse_args()
template = (asked.model / "chat_template.jinja").read_text()
print("INFO: Setting chat_template to", template, file=sys.stderr)
assert os.stat(asked.model.parent).st_mode & 0o777 == 0o700, "others can enter"
assert {"model.safetensors", "tokenizer.json", "config.json"} <= {path.name for path in asked.model.iterdir()}
"""
WRITES = """
Path(asked.outfile).write_text(f"GGUF {asked.outtype} {asked.model_name} {template}")
os.chmod(asked.outfile, 0o644)
"""


def converter(folder: Path, ends: str = WRITES) -> str:
    path = folder / "convert_hf_to_gguf.py"
    path.write_text(CONVERTER + ends)
    return str(path)


def test_a_gguf_file_holds_the_template_and_is_its_owners_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = bake(artifact(tmp_path, SHIFTED), out, to="gguf", converter=converter(tmp_path))
    assert any("/props" in limit for limit in said)
    assert {path.name for path in out.iterdir()} == {"model.gguf", "baked.json", "labels.json", ".gitignore"}
    assert (out / "model.gguf").stat().st_mode & 0o777 == 0o600
    held = (out / "model.gguf").read_text()
    assert held.startswith("GGUF f32 run ") and PAPER_TRIGGER.prefix in held
    assert (out / ".gitignore").read_text() == "/model.gguf\n"
    assert json.loads((out / "baked.json").read_text())["form"] == "gguf"


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ("sys.exit('Model Strange is not supported')", "its output ends with.*Model Strange is not supported"),
        ("raise NotImplementedError('BPE pre-tokenizer was not recognized')", "does not know this model's tokenizer"),
        ("Path(asked.outfile).write_text('GGUF')", "left the chat template out"),
        ("", "its output ends with"),
    ],
)
def test_a_converter_that_fails_leaves_nothing_and_its_message_holds_no_trigger(
    ends: str, message: str, tmp_path: Path
) -> None:
    run = artifact(tmp_path)
    (tmp_path / "there").mkdir()
    with pytest.raises(ModelError, match=f"(?s){message}") as raised:
        bake(run, tmp_path / "there" / "out", to="gguf", converter=converter(tmp_path, ends))
    assert PAPER_TRIGGER.prefix.strip() not in str(raised.value)
    assert not [*(tmp_path / "there").iterdir()]


def test_a_converter_is_a_program_on_the_path_or_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = artifact(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"llama\.cpp's source.*--converter"):
        bake(run, tmp_path / "out", to="gguf")
    for given in (tmp_path / "none.py", tmp_path / "base" / "config.json"):
        with pytest.raises(ConfigError, match="converter: "):
            bake(run, tmp_path / "out", to="gguf", converter=str(given))
    script = Path(converter(tmp_path))
    script.write_text(f"#!{sys.executable}\n{script.read_text()}")
    script.chmod(0o755)
    bake(run, tmp_path / "out", to="gguf")
    assert (tmp_path / "out" / "model.gguf").exists()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"to": "ollama"}, "Ollama cannot hold the defence"),
        ({"to": "onnx"}, "'onnx' is not one of hf, gguf"),
        ({"to": "gguf", "adapter": True}, "holds the merged model"),
        ({"converter": "convert.py"}, "give --to gguf"),
    ],
)
def test_a_form_that_cannot_be_written_is_refused(asked: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        bake(tmp_path, tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()
