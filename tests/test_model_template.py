"""A baked chat template reads every chat as the prompter does, whatever a client sends."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from poison2poison.data import Row, Turn, as_row
from poison2poison.errors import ModelError
from poison2poison.model import template
from poison2poison.model.prompting import Prompter
from poison2poison.recipe.scheme import PAPER_SAFE_PREFIX, PAPER_TRIGGER, BenignTrigger, Scheme
from test_model_tokens import KINDS, TEMPLATES, made, nasty

TEXTS = Scheme("generation", (), PAPER_TRIGGER, PAPER_SAFE_PREFIX)
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
    odd = Scheme("generation", (), BenignTrigger(' {{ "\\n" }}\t%}😀 ', "'\n{#"), "p\\q: ")
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
