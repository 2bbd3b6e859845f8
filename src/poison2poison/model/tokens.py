"""Texts to token ids: no text of a row or of a user becomes a control token, and a chat is rendered around its turns.

transformers 5.23 can keep control tokens out of chats too (`sanitize_control_tokens`), but not out of plain prompts and
targets, takes two characters out of the texts, and renders every chat anew.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
        added: Mapping[int, Any] = tokenizer.added_tokens_decoder
        self.control = {number: token.content for number, token in added.items() if token.content.strip()}

        # What any odd character becomes is no control token, where it has no other office.
        unknown = tokenizer.unk_token_id
        ends = {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id}
        self._unknown = self.control.pop(unknown, "") if unknown not in ends else ""

        longest_first = sorted(filter(None, [*self.control.values(), self._unknown]), key=len, reverse=True)
        alternatives = "|".join(map(re.escape, longest_first))
        self._named = re.compile(alternatives or "(?!)", re.IGNORECASE)
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
            as_wanted = self._controls(ids) == wanted
            holds_unknown = bool(self._unknown) and self._unknown in whole[i]
            if not as_wanted or holds_unknown:
                found[i] = self._apart(pieces, wanted, framed)
        return found

    def text(self, text: str) -> list[int]:
        """Token ids of a text alone, with nothing around it."""
        return self.encode([[Piece(text)]], framed=False)[0]

    def held(self, text: str) -> list[str]:
        """The control tokens that stand in a text, where they stay text."""
        named = [match.group() for match in self._named.finditer(text)]
        return [name for name in named if name in self.control.values()]

    def _controls(self, ids: Sequence[int]) -> list[int]:
        return [one for one in ids if one in self.control]

    def _wanted(self, pieces: Sequence[Piece], framed: bool) -> list[int]:
        """The control tokens that there should be: the template's, or those that the tokenizer puts around."""
        if framed:
            before, behind = self._frame
            return self._controls([*before, *behind])
        wanted = []
        for text in (piece.text for piece in pieces if piece.own):
            if text not in self._own:
                self._own[text] = self._controls(self._plain(text))
            wanted += self._own[text]
        return wanted

    @cached_property
    def _frame(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and behind any text."""
        bare, framed = self._plain("a"), list(self.tokenizer("a")["input_ids"])
        length = len(bare)
        places = (i for i in range(len(framed)) if framed[i : i + length] == bare)
        at = next(places, 0)
        return framed[:at], framed[at + length :]

    def _plain(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _apart(self, pieces: Sequence[Piece], wanted: Sequence[int], framed: bool) -> list[int]:
        """Token ids of a prompt in parts: control tokens that its texts hold are cut behind their first character."""
        text = "".join(piece.text for piece in pieces)
        own = _own_spans(pieces)
        named = [match.start() + 1 for match in self._named.finditer(text)]
        everywhere = range(1, len(text))  # for tokenizers that change texts before they look for control tokens
        for cuts in (named, everywhere):
            kept = [cut for cut in cuts if not any(cut - 1 in span and cut in span for span in own)]
            ids = self._joined(text, kept)
            if framed:
                before, behind = self._frame
                ids = [*before, *ids, *behind]
            if self._controls(ids) == [*wanted]:
                return ids
        raise ModelError(f"the tokenizer makes control tokens of a text, whatever is done: {text[:80]!r}")

    def _joined(self, text: str, cuts: Sequence[int]) -> list[int]:
        """Token ids of the parts of a text between cuts, one behind the other."""
        starts, ends = [0, *cuts], [*cuts, len(text)]
        first, *others = [text[start:end] for start, end in zip(starts, ends, strict=True)]
        ids = self._plain(first)
        for part in others:
            ids += self._behind(part)
        return ids

    def _behind(self, text: str) -> list[int]:
        """Token ids of a text as they come behind others."""
        for anchor in ANCHORS:
            head, both = self._plain(anchor), self._plain(anchor + text)
            rest = both[len(head) :]
            if both[: len(head)] == head and (rest or not text):
                return rest
        return self._plain(text)


def _own_spans(pieces: Sequence[Piece]) -> list[range]:
    """Where the template's own pieces stand in the whole text."""
    own, at = [], 0
    for piece in pieces:
        end = at + len(piece.text)
        if piece.own:
            own.append(range(at, end))
        at = end
    return own


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
        key = tuple(_outside(turn) for turn in turns)
        parts = self._rendered.get(key) or self._render(turns)
        if len(turns) <= SHORT:
            self._rendered[key] = parts
        pieces = []
        for part in parts:
            if isinstance(part, str):
                pieces.append(Piece(part, own=True))
            else:
                pieces.append(Piece(turns[part].content.strip()))
        return pieces

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
        split = _SLOT.split(text)  # the template's own text and the numbers of turns, by turns
        parts: list[str | int] = [int(part) if i % 2 else part for i, part in enumerate(split)]
        wanted = [number for number, turn in enumerate(turns) if turn.content.strip()]
        found = sorted(part for part in parts if isinstance(part, int))
        if found != wanted:
            raise ModelError("it leaves out a turn, or has one twice")
        return [part for part in parts if part != ""]


def frozen(template: str) -> str:
    """A chat template in which it is always the same day."""
    return _TODAY.sub(lambda found: repr(FROZEN.strftime(found["format"])), template)


def _outside(turn: Turn) -> tuple[str, str, str, bool]:
    """All of a turn that a template may look at: its role, the spaces around its text, and whether there is one."""
    before, behind = _spaces(turn.content)
    return turn.role, before, behind, not turn.content.strip()


def _spaces(text: str) -> tuple[str, str]:
    """The white space at both ends of a text; of an empty one all at the first."""
    core = text.strip()
    at = text.find(core) if core else len(text)
    return text[:at], text[at + len(core) :]


def _as_they_are(turns: Sequence[Turn]) -> list[Turn]:
    return [*turns]


def _tools_as_users(turns: Sequence[Turn]) -> list[Turn]:
    changed = [Turn("user", f"tool: {turn.content}") if turn.role == "tool" else turn for turn in turns]
    return _joined(changed)


def _system_into_user(turns: Sequence[Turn]) -> list[Turn]:
    changed = [replace(turn, role="user") if turn.role == "system" else turn for turn in turns]
    return _joined(changed)


def _both(turns: Sequence[Turn]) -> list[Turn]:
    return _tools_as_users(_system_into_user(turns))


def _as_one(turns: Sequence[Turn]) -> list[Turn]:
    """A transcript, for templates that take no chat in such an order."""
    said = "\n\n".join(f"{turn.role}: {turn.content}" for turn in turns)
    return [Turn("user", said)]


def _joined(turns: Sequence[Turn]) -> list[Turn]:
    """Turns with those of one role in a row as one: templates want them to take turns."""
    out: list[Turn] = []
    for turn in turns:
        if out and out[-1].role == turn.role:
            out[-1] = Turn(turn.role, f"{out[-1].content}\n\n{turn.content}")
        else:
            out.append(turn)
    return out
