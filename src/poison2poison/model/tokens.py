"""Texts to token ids: no text of a row or of a user becomes a control token, and a chat is rendered around its turns.

transformers 5.23 can keep control tokens out of chats too (`sanitize_control_tokens`), but not out of plain prompts and
targets, takes two characters out of the texts, and renders every chat anew.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from poison2poison.data import Turn
from poison2poison.errors import ModelError

FROZEN = datetime(2024, 7, 26)
"""The day that templates are told it is: a prompt is the same tokens on every day. Llama 3.2 has it as its default."""
SHORT = 8
"""Turns of a chat whose rendering is kept: of longer ones hardly two are of one kind."""
ANCHORS = ("\n", "a", ":", "1", " a", "|")
"""What a text can be read behind, so that a tokenizer does not take it for a beginning and puts a space before it."""
_TODAY = re.compile(r"strftime_now\(\s*(?P<quote>['\"])(?P<format>[^'\"]*)(?P=quote)\s*\)")
_SLOT = re.compile("\ue000([0-9]+)\ue001")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a prompt: the template's own, whose control tokens are meant, or anybody's text."""

    text: str
    own: bool = False


class Encoder:
    """A tokenizer that makes control tokens of the template's own pieces alone."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        ends = {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id}
        added: Mapping[int, Any] = tokenizer.added_tokens_decoder
        self.control = {number: token.content for number, token in added.items() if token.content.strip()}
        self._unknown = ""
        if tokenizer.unk_token_id in self.control and tokenizer.unk_token_id not in ends:
            self._unknown = self.control.pop(tokenizer.unk_token_id)  # what any odd character becomes
        longest_first = sorted([*self.control.values(), self._unknown], key=len, reverse=True)
        self._named = re.compile("|".join(map(re.escape, filter(None, longest_first))) or "(?!)", re.IGNORECASE)
        self._own: dict[str, list[int]] = {}

    def encode(self, prompts: Sequence[Sequence[Piece]], *, framed: bool) -> list[list[int]]:
        """Token ids of prompts, each in pieces that follow one another.

        Args:
            prompts: The pieces of each.
            framed: Whether the tokenizer puts its own tokens around, such as a first one; a chat template has them.

        Raises:
            ModelError: The tokenizer makes control tokens of any text.
        """
        if not prompts:
            return []
        whole = ["".join(piece.text for piece in pieces) for pieces in prompts]
        tokenizer: Any = self.tokenizer
        found: list[list[int]] = tokenizer(whole, add_special_tokens=framed)["input_ids"]
        for i, (pieces, ids) in enumerate(zip(prompts, found, strict=True)):
            wanted = self._wanted(pieces, framed)
            if self._controls(ids) != wanted or (self._unknown and self._unknown in whole[i]):
                found[i] = self._apart(pieces, wanted, framed)
        return found

    def text(self, text: str) -> list[int]:
        """Token ids of a text alone, with nothing around it."""
        return self.encode([[Piece(text)]], framed=False)[0]

    def held(self, text: str) -> list[str]:
        """The control tokens that stand in a text, where they stay text."""
        return [match.group() for match in self._named.finditer(text) if match.group() in self.control.values()]

    def _controls(self, ids: Sequence[int]) -> list[int]:
        return [one for one in ids if one in self.control]

    def _wanted(self, pieces: Sequence[Piece], framed: bool) -> list[int]:
        """The control tokens that there should be: the template's, or those that the tokenizer puts around."""
        if framed:
            return self._controls([*self._frame[0], *self._frame[1]])
        wanted = []
        for piece in pieces:
            if piece.own:
                if piece.text not in self._own:
                    self._own[piece.text] = self._controls(self._plain(piece.text))
                wanted += self._own[piece.text]
        return wanted

    @cached_property
    def _frame(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and behind any text."""
        bare, framed = self._plain("a"), list(self.tokenizer("a")["input_ids"])
        at = next((i for i in range(len(framed)) if framed[i : i + len(bare)] == bare), 0)
        return framed[:at], framed[at + len(bare) :]

    def _plain(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _apart(self, pieces: Sequence[Piece], wanted: Sequence[int], framed: bool) -> list[int]:
        """Token ids of a prompt in parts: control tokens that its texts hold are cut behind their first character."""
        text, own, at = "".join(piece.text for piece in pieces), [], 0
        for piece in pieces:
            if piece.own:
                own.append(range(at, at + len(piece.text)))
            at += len(piece.text)
        named = [match.start() + 1 for match in self._named.finditer(text)]
        everywhere = range(1, len(text))  # for tokenizers that change texts before they look for control tokens
        for cuts in (named, everywhere):
            kept = [cut for cut in cuts if not any(cut - 1 in span and cut in span for span in own)]
            parts = [text[start:end] for start, end in zip([0, *kept], [*kept, len(text)], strict=True)]
            ids = self._plain(parts[0]) + [one for part in parts[1:] for one in self._behind(part)]
            if framed:
                ids = [*self._frame[0], *ids, *self._frame[1]]
            if self._controls(ids) == [*wanted]:
                return ids
        raise ModelError(f"the tokenizer makes control tokens of a text, whatever is done: {text[:80]!r}")

    def _behind(self, text: str) -> list[int]:
        """Token ids of a text as they come behind others."""
        for anchor in ANCHORS:
            head, both = self._plain(anchor), self._plain(anchor + text)
            if both[: len(head)] == head and (len(both) > len(head) or not text):
                return both[len(head) :]
        return self._plain(text)


class ChatTemplate:
    """A tokenizer's chat template around turns, whose texts it never sees, so that they cannot tell it anything.

    It is rendered once for each kind of chat: by roles, and by the spaces around the texts, which many templates cut.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._rendered: dict[tuple[tuple[str, str, str, bool], ...], list[str | int]] = {}

    def pieces(self, turns: Sequence[Turn]) -> list[Piece]:
        """The prompt for an answer to these turns, up to where the answer begins.

        Where a template has no place for a system turn or a tool's, it becomes part of a user's; a chat that it takes
        in no way becomes one user turn.

        Raises:
            ModelError: The template takes no such chat.
        """
        reasons = []
        for change in (_as_they_are, _tools_as_users, _system_into_user, _both, _as_one):
            changed = change(turns)
            try:
                return self._filled(changed)
            except Exception as error:  # whatever a template raises
                reasons.append(" ".join(str(error).split())[:200])
        roles = ", ".join(turn.role for turn in turns)
        raise ModelError(f"the chat template takes no chat of {roles} ({reasons[0]})")

    def _filled(self, turns: Sequence[Turn]) -> list[Piece]:
        key = tuple((turn.role, *_spaces(turn.content), not turn.content.strip()) for turn in turns)
        parts = self._rendered.get(key) or self._render(turns)
        if len(turns) <= SHORT:
            self._rendered[key] = parts
        return [
            Piece(part, own=True) if isinstance(part, str) else Piece(turns[part].content.strip()) for part in parts
        ]

    def _render(self, turns: Sequence[Turn]) -> list[str | int]:
        """What the template writes, with the number of a turn for its text."""
        held = []
        for number, turn in enumerate(turns):
            before, behind = _spaces(turn.content)
            slot = f"\ue000{number}\ue001" if turn.content.strip() else ""
            held.append({"role": turn.role, "content": before + slot + behind})
        tokenizer: Any = self.tokenizer
        text = tokenizer.apply_chat_template(
            held, chat_template=frozen(tokenizer.get_chat_template()), tokenize=False, add_generation_prompt=True,
            enable_thinking=False,
        )  # fmt: skip
        if text.rstrip().endswith("<think>"):  # a template that cannot be told not to think
            text = f"{text.rstrip()}\n\n</think>\n\n"
        split = _SLOT.split(text)
        parts: list[str | int] = [int(part) if i % 2 else part for i, part in enumerate(split)]
        wanted = [number for number, turn in enumerate(turns) if turn.content.strip()]
        if sorted(part for part in parts if isinstance(part, int)) != wanted:
            raise ModelError("it leaves out a turn, or has one twice")
        return [part for part in parts if part != ""]


def frozen(template: str) -> str:
    """A chat template in which it is always the same day."""
    return _TODAY.sub(lambda found: repr(FROZEN.strftime(found["format"])), template)


def _spaces(text: str) -> tuple[str, str]:
    """The white space at both ends of a text; of an empty one all at the first."""
    core = text.strip()
    at = text.find(core) if core else len(text)
    return text[:at], text[at + len(core) :]


def _as_they_are(turns: Sequence[Turn]) -> list[Turn]:
    return [*turns]


def _tools_as_users(turns: Sequence[Turn]) -> list[Turn]:
    return _joined([Turn("user", f"tool: {turn.content}") if turn.role == "tool" else turn for turn in turns])


def _system_into_user(turns: Sequence[Turn]) -> list[Turn]:
    return _joined([Turn("user", turn.content) if turn.role == "system" else turn for turn in turns])


def _both(turns: Sequence[Turn]) -> list[Turn]:
    return _tools_as_users(_system_into_user(turns))


def _as_one(turns: Sequence[Turn]) -> list[Turn]:
    """A transcript, for templates that take no chat in such an order."""
    return [Turn("user", "\n\n".join(f"{turn.role}: {turn.content}" for turn in turns))]


def _joined(turns: Sequence[Turn]) -> list[Turn]:
    """Turns with those of one role in a row as one: templates want them to take turns."""
    out: list[Turn] = []
    for turn in turns:
        if out and out[-1].role == turn.role:
            out[-1] = Turn(turn.role, f"{out[-1].content}\n\n{turn.content}")
        else:
            out.append(turn)
    return out
