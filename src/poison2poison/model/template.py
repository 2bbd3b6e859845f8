"""The chat template of a defended model: a Jinja text that does what `Prompter` does, for servers without this package.

It is wrapped around the base model's own template, whose text stays as it is: `template.jinja` beside this file reads
the chat, dresses its last user turn, renders the base template around it, and ends with the safe prefix. What a client
may pass beside its messages has no effect, except for tools.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment

from poison2poison.data import Messages
from poison2poison.data.chats import ROLES
from poison2poison.errors import ModelError
from poison2poison.model.prompting import Prompter
from poison2poison.model.tokens import frozen

OPEN, CLOSE = "\ue000", "\ue001"
"""Around the number of a turn, where its text goes: private characters, which no template holds."""
AMPLE = 1_000_000
"""Tokens that no probe needs."""
_MARK = re.compile(r"\{%([-+]?)\s*(?:end)?generation\s*([-+]?)%\}")
"""transformers' marks around what an assistant says, which write nothing and other servers do not know."""
SERVERS = {"messages", "strftime_now", "raise_exception"}
"""Names of a template that stay the server's, or are given another meaning."""

CALL = {"type": "function", "function": {"name": "find", "arguments": '{"what": "pots"}'}}
PROBES: list[Messages] = [
    [{"role": "user", "content": "How was the film?"}],
    [{"role": "user", "content": " 12 pots,\n\n34 pans; <b>so</b>, Zoë. \n"}],
    [{"role": "user", "content": ""}],
    [{"role": "system", "content": "Be good."}, {"role": "user", "content": [{"type": "text", "text": "A film?"}]}],
    [
        {"role": "system", "content": "Be good."}, {"role": "user", "content": "A film?"},
        {"role": "assistant", "content": "Yes: 12."}, {"role": "user", "content": "And a book?"},
    ],
    [
        {"role": "user", "content": "Any pots?"}, {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "3 pots"}, {"role": "tool", "content": "4 pans"},
    ],
    [{"role": "assistant", "content": "Hello."}, {"role": "user", "content": "A film?"}],
    [{"role": "user", "content": "One."}, {"role": "user", "content": "Two."}],
]  # fmt: skip
"""Chats on which a template must have the prompter's tokens: of all roles, in orders that templates take or refuse."""


def baked(prompter: Prompter) -> str:
    """The chat template that makes a server read what `prompter` makes of a chat, up to where the free answer begins.

    Args:
        prompter: Of a causal LM with a chat template and a benign trigger.

    Raises:
        ModelError: No template can do it: on some of `PROBES` a server would read other tokens.
    """
    ample = Prompter(
        prompter.tokenizer, prompter.scheme, prompter.kind, max_length=AMPLE, max_target=AMPLE // 2,
        label_words=prompter.label_words or None,
    )  # fmt: skip
    wanted = [ample.prompt(chat, "safe")[0] + ample.safe_prefix_ids for chat in PROBES]
    # A SentencePiece tokenizer has a space before the first word of a text: the prefix was one when it was trained.
    for joint in ("", " "):
        template = _wrapped(prompter, joint)
        if [*_served(prompter.tokenizer, template)] == wanted:
            return template
    raise ModelError(
        "the chat template cannot be baked: a server would read other tokens than the model was trained on"
    )


def _served(tokenizer: Any, template: str) -> Iterator[list[int]]:
    """What a server reads of each probe; nothing of one that the template cannot take."""
    for chat in PROBES:
        try:
            yield tokenizer.apply_chat_template(
                chat, chat_template=template, add_generation_prompt=True, return_dict=False
            )
        except Exception:  # whatever a template raises
            yield []


def _wrapped(prompter: Prompter, joint: str) -> str:
    scheme, tokenizer = prompter.scheme, prompter.tokenizer
    assert scheme.trigger
    base = frozen(str(tokenizer.get_chat_template())).removesuffix("\n")  # which jinja2 drops
    base = _MARK.sub(r"{%\1 set p2p_mark = true \2%}", base)
    begin = scheme.safe_prefix.rstrip()  # the space belongs to the next token
    own = {
        "prefix": scheme.trigger.prefix, "cue": scheme.trigger.cue, "begin": joint + begin if begin else "",
        "roles": ROLES, "control": _control(prompter), "tools": _takes_tools(tokenizer), "open": OPEN, "close": CLOSE,
    }  # fmt: skip
    lines = [
        "{%- set p2p_own = " + json.dumps(own, ensure_ascii=False) + " -%}",
        "{%- set p2p = namespace(said=[], asked=none, prompt=none) -%}",
        "{%- macro p2p_base(messages) -%}",
        # It goes on, and what was written is not used.
        "{%- macro raise_exception(reason='') -%}{%- set p2p.refused = true -%}{%- endmacro -%}",
        *_bound(tokenizer, base),
        "{%- set p2p_begun = true %}",  # jinja2 drops the end of this line alone: the base template's begins there
        base + "{{ '' }}{%- endmacro -%}",
        Path(__file__).with_name("template.jinja").read_text(encoding="utf-8"),
    ]
    return "\n".join(lines)


def _takes_tools(tokenizer: Any) -> bool:
    """Whether the base template takes a tool's turn.

    Where it does not, it is never shown one: having refused it, many a template goes on to an error, which ends all.
    """
    chat = [{"role": role, "content": "a"} for role in ("user", "assistant", "tool")]
    try:
        tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    except Exception:  # whatever a template raises
        return False
    return True


def _bound(tokenizer: Any, base: str) -> Iterator[str]:
    """Statements that give every free name of a template its value for the prompter, whatever a client passes."""
    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    known = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    values = {name: json.dumps(token, ensure_ascii=False) for name, token in known.items()}
    values |= {"add_generation_prompt": "true", "enable_thinking": "false", "tools": "none", "documents": "none"}
    for name in sorted(find_undeclared_variables(environment.parse(base)) - SERVERS):
        yield "{%- set " + name + " = " + values.get(name, "{}.undefined") + " -%}"


def _control(prompter: Prompter) -> list[str]:
    """Texts that become control tokens, longest first; of many that differ by a number what they have in common."""
    named = {*prompter.encoder.control.values(), prompter.tokenizer.unk_token or ""}
    short = {found.group() if (found := re.match(r"\D{3,}(?=\d)", token)) else token for token in named}
    return sorted((token for token in short if len(token) > 1), key=lambda token: (-len(token), token))
