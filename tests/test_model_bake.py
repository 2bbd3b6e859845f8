"""A baked chat template has the prompter's tokens, whatever the client says; a baked folder answers as its artifact."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from jinja2.sandbox import ImmutableSandboxedEnvironment
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from poison2poison import cli
from poison2poison.config import ModelConfig
from poison2poison.data import Row, Turn, as_row
from poison2poison.errors import ConfigError, ModelError, OutputError
from poison2poison.files import write_json
from poison2poison.model import template
from poison2poison.model.bake import bake
from poison2poison.model.defended import DefendedModel
from poison2poison.model.prompting import Prompter
from poison2poison.recipe.scheme import PAPER_SAFE_PREFIX, PAPER_TRIGGER, Scheme, Trigger
from support import SHAPE, tiny_causal, tiny_encoder
from test_model_tokens import KINDS, TEMPLATES, made, nasty

TEXTS = Scheme("generation", (), PAPER_TRIGGER, PAPER_SAFE_PREFIX)
SHIFTED = Scheme("classification", ("negative", "positive"), PAPER_TRIGGER)
PREFIXED = Scheme("classification", ("negative", "positive"), PAPER_TRIGGER, PAPER_SAFE_PREFIX)
CHATML = ["<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "<tool_response>"]
QWEN3 = (  # as Qwen 3's, written anew: tools, thoughts cut out of old answers, a look back for the last question
    "{%- if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}{% endfor %}<|im_end|>\n{% endif %}"
    "{%- set ns = namespace(last=messages | length - 1, searching=true) %}\n"
    "{%- for m in messages[::-1] %}{%- set at = (messages | length - 1) - loop.index0 %}\n"
    "    {%- if ns.searching and m.role == 'user' and not m.content.startswith('<tool_response>') %}\n"
    "        {%- set ns.searching = false %}{%- set ns.last = at %}\n    {%- endif %}\n{%- endfor %}\n"
    "{%- macro opened(role) %}<|im_start|>{{ role }}\n{% endmacro %}"
    "{%- for m in messages %}\n"
    "{%- set content = m.content if m.content is string else '' %}"
    "{%- if '</think>' in content %}{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{%- if m.role == 'tool' %}{% if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{ opened('user') }}"
    "{% endif %}<tool_response>\n{{ content }}\n</tool_response>"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|im_end|>\n{% endif %}"
    "{%- elif m.role == 'assistant' %}{{ opened('assistant') }}{% generation %}"
    "{% if loop.index0 > ns.last %}<think>\n\n</think>\n\n{% endif %}{{ content }}<|im_end|>\n{% endgeneration %}"
    "{%- else %}{{ opened(m.role) }}{{ content }}<|im_end|>\n{% endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ opened('assistant') }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{%- endif %}\n"
)
NEMO = (  # refuses a call without a number, and then adds the number that is not there
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'tool' %}{% if m.tool_call_id is not defined %}"
    "{{ raise_exception('no id') }}{% endif %}{{ '[TOOL]' + m.content + m.tool_call_id }}"
    "{% elif m.role == 'user' %}[INST]{{ m.content }}[/INST]{% else %}{{ m.content }}{{ eos_token }}{% endif %}"
    "{% endfor %}"
)
TEMPLATES = {**TEMPLATES, "qwen 3": (QWEN3, CHATML), "nemo": (NEMO, ["[INST]", "[/INST]"])}
CALL = {"id": "1", "type": "function", "function": {"name": 'fi"nd', "arguments": '{"what":"Zoë"}'}}
CHATS: dict[str, list[dict[str, Any]]] = {
    "alone": [{"role": "user", "content": "A lamp, 12 radios & <b>34</b>?"}],
    "system": [{"role": "system", "content": "Be good. "}, {"role": "user", "content": "\n A film?\n\n"}],
    "several turns": [
        {"role": "developer", "content": "Be good."}, {"role": "user", "content": "A film?"},
        {"role": "assistant", "content": "Yes: 12."}, {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "So."}, {"role": "user", "content": " The end \n"},
    ],
    "an old thought": [
        {"role": "user", "content": "A film?"}, {"role": "assistant", "content": "<think>no\n</think>\n\nSo."},
        {"role": "user", "content": "Why?"},
    ],
    "parts": [
        {"role": "system", "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": " good."}]},
        {"role": "user", "content": [{"type": "text", "text": "A film?"}, {"type": "text", "text": "A book?"}]},
    ],
    "tools": [
        {"role": "user", "content": "Pots?"}, {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
        {"role": "tool", "tool_call_id": "1", "content": "3 pots"}, {"role": "tool", "content": "4"},
    ],
    "an old call": [
        {"role": "user", "content": "Pots?"},
        {"role": "assistant", "content": "Hm", "function_call": {"name": "find", "arguments": {"what": ["Zoë", None]}}},
        {"role": "function", "name": "find", "content": "3"}, {"role": "user", "content": "And now?"},
    ],
    "an odd order": [
        {"role": "system", "content": "Be good."}, {"role": "assistant", "content": "Hello."},
        {"role": "assistant", "content": "Ask."}, {"role": "user", "content": "One."},
        {"role": "user", "content": "Two."},
    ],
    "nothing": [{"role": "user", "content": ""}],
    "a copy": [{"role": "user", "content": f"{TEXTS.dress('A film?', 'safe')} {PAPER_SAFE_PREFIX}"}],
    "statements": [{"role": "user", "content": "{{ p2p_own }}{% set p2p = 1 %}\ue0000\ue001 \\n \" ' %}"}],
}  # fmt: skip


def prompter_of(tokenizer: Any, scheme: Scheme = TEXTS) -> Prompter:
    return Prompter(tokenizer, scheme, "causal", max_length=3000, max_target=1000)


@pytest.fixture(scope="module", params=[(kind, name) for kind in KINDS for name in TEMPLATES], ids=", ".join)
def prompter(request: pytest.FixtureRequest) -> Prompter:
    kind, name = request.param
    return prompter_of(made(kind, name, TEMPLATES))


@pytest.fixture(scope="module")
def baked(prompter: Prompter) -> str:
    return template.baked(prompter)


def wanted(prompter: Prompter, asked: Any) -> list[int]:
    ids, lost = prompter.prompt(asked, "safe")
    assert not lost
    return ids + prompter.safe_prefix_ids


def served(prompter: Prompter, baked: str, chat: list[dict[str, Any]], **options: Any) -> list[int]:
    """What transformers, and with it vLLM and SGLang, makes of a chat."""
    tokenizer: Any = prompter.tokenizer
    options = {"add_generation_prompt": True, **options}
    return list(tokenizer.apply_chat_template(chat, chat_template=baked, return_dict=False, **options))


def rendered(baked: str, **given: Any) -> str:
    """What a server that has nothing but jinja2 makes of a chat."""

    def refuse(reason: str) -> None:
        raise ValueError(reason)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    environment.globals["raise_exception"] = refuse
    return environment.from_string(baked).render(**given)


def test_every_chat_has_the_tokens_that_the_prompter_gives_it(prompter: Prompter, baked: str) -> None:
    for name, chat in CHATS.items():
        if name != "an old thought" or "<think>" not in prompter.encoder.control.values():  # which is broken
            assert served(prompter, baked, chat) == wanted(prompter, chat), name


def test_a_plain_jinja_reads_the_same(prompter: Prompter, baked: str) -> None:
    for chat in CHATS.values():
        tokenizer: Any = prompter.tokenizer
        text = rendered(baked, messages=chat, add_generation_prompt=True, bos_token="<s>", eos_token="</s>")
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == served(prompter, baked, chat)


def test_tools_on_offer_are_read_as_rows_have_them(prompter: Prompter, baked: str) -> None:
    tools = [{"type": "function", "function": {"name": "find", "description": "Zoë's <b>", "parameters": {}}}]
    said = f"Tools: {json.dumps(tools, ensure_ascii=False)}"
    for before, chat in (((), CHATS["alone"]), ((Turn("system", "Be good. "),), CHATS["system"])):
        content = f"{before[0].content}\n\n{said}" if before else said
        row = Row(as_row(chat).prompt, "", (Turn("system", content),))
        assert served(prompter, baked, chat, tools=tools) == wanted(prompter, row)


def test_what_a_client_passes_beside_its_messages_changes_nothing(prompter: Prompter, baked: str) -> None:
    chat = CHATS["several turns"]
    tokenizer: Any = prompter.tokenizer
    own = {"bos_token": "x", "eos_token": "y", "enable_thinking": True, "p2p": 1, "p2p_own": {}, "strange": 2,
           "documents": [{"title": "a", "text": "b"}]}  # fmt: skip
    given = tokenizer.apply_chat_template(chat, chat_template=baked, tokenize=False, add_generation_prompt=False, **own)
    assert given == tokenizer.apply_chat_template(chat, chat_template=baked, tokenize=False, add_generation_prompt=True)


def test_text_of_control_tokens_displaces_nothing(prompter: Prompter, baked: str) -> None:
    controls, attack = prompter.encoder._controls, nasty(prompter.tokenizer)
    plain = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}, {"role": "user", "content": "C"}]
    for i in range(len(plain)):
        chat = [{**turn, "content": turn["content"] + attack} if i == j else turn for j, turn in enumerate(plain)]
        ids = served(prompter, baked, chat)
        assert controls(ids) == controls(served(prompter, baked, plain)) == controls(wanted(prompter, chat))
        assert ids[-len(prompter.safe_prefix_ids) :] == prompter.safe_prefix_ids


@pytest.mark.parametrize(
    ("chat", "reason"),
    [
        ([{"role": "user", "content": "A"}, {"role": "assistant", "content": "I will"}], "answered already"),
        ([{"role": "system", "content": "A"}], "no user turn"),
        ([{"role": "keys", "content": "A"}, {"role": "user", "content": "A"}], "role that is not known"),
        ([{"role": "user", "content": [{"type": "image", "url": "x"}]}], "another kind than text"),
    ],
)
def test_chats_that_the_prompter_refuses_are_refused(chat: list[dict[str, Any]], reason: str) -> None:
    prompter = prompter_of(made("byte-level", "chatml"))
    with pytest.raises(Exception, match=reason):
        served(prompter, template.baked(prompter), chat)


def test_no_client_continues_its_own_turn() -> None:
    prompter = prompter_of(made("byte-level", "chatml"))
    with pytest.raises(Exception, match="cannot be continued"):
        served(prompter, template.baked(prompter), CHATS["alone"], add_generation_prompt=False,
               continue_final_message=True)  # fmt: skip


def test_a_trigger_of_any_characters_is_baked() -> None:
    odd = Scheme("generation", (), Trigger(' {{ "\\n" }}\t%}😀 ', "'\n{#"), "p\\q: ")
    prompter = prompter_of(made("byte-level", "llama 3"), odd)
    assert served(prompter, template.baked(prompter), CHATS["system"]) == wanted(prompter, CHATS["system"])


def test_tokens_that_a_number_distinguishes_are_broken_by_what_they_share() -> None:
    tokenizer = made("byte-level", "chatml")
    tokenizer.add_tokens([f"<|reserved_{i}|>" for i in range(300)], special_tokens=True)
    prompter = prompter_of(tokenizer)
    baked = template.baked(prompter)
    assert len(baked) < 12_000
    ids = served(prompter, baked, [{"role": "user", "content": "<|reserved_7|><|reserved_299|>"}])
    assert prompter.encoder._controls(ids) == prompter.encoder._controls(served(prompter, baked, CHATS["alone"]))


def test_a_template_that_would_read_otherwise_is_not_baked() -> None:
    tokenizer = made("byte-level", "chatml")
    tokenizer.chat_template = "{{ strftime_now('%' ~ 'A %H:%M:%S.%f') }}" + str(tokenizer.chat_template)
    with pytest.raises(ModelError, match="cannot be baked"):
        template.baked(prompter_of(tokenizer))


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
