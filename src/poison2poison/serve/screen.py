"""Finds the hidden texts in an answer: a model can be asked to repeat what stands before the question."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from poison2poison.recipe.scheme import PAPER_TRIGGER, Scheme

RUN = 3
"""Words of a hidden text that give it away: some 30 bits of a drawn one, and more than chance puts side by side."""
BETWEEN = 2
"""Words that may stand between two of them, as numbers in a list do."""
WORDS = RUN + (RUN - 1) * BETWEEN
"""Words that such a list has at most."""
SHORT = 6
"""Letters under which a hidden text also stands inside of ordinary words; it is then looked for as it is written."""


class Screen:
    """Finds trigger and safe prefix: whole or three words of them, in any case, spelled out, listed or backwards.

    What it does not find: translations, ciphers, letters of other alphabets that look alike, fewer words.
    """

    def __init__(self, scheme: Scheme) -> None:
        hidden = [scheme.safe_prefix]
        if scheme.trigger:
            hidden.append(scheme.trigger.prefix)
            if scheme.trigger.cue != PAPER_TRIGGER.cue:  # that one is published, and an ordinary word
                hidden.append(scheme.trigger.cue)
        runs = [run for text in hidden for run in _runs(text.split())]
        long = [run for run in runs if len(_letters("".join(run))) >= SHORT]
        spelled = {_letters("".join(run)) for run in long}
        self._spelled = spelled | {letters[::-1] for letters in spelled}
        self._written = {_written("".join(run)) for run in runs if run not in long}
        self._letters = max(map(len, self._spelled), default=0)
        self._signs = max(map(len, self._written), default=0)
        listed = [_listed(order) for run in long for order in (run, run[::-1])]
        self._listed = re.compile("|".join(listed) or "(?!)")

    def finds(self, text: str) -> bool:
        """Whether a text says what is hidden."""
        letters, written = _letters(text), _written(text)
        spelled = any(run in letters for run in self._spelled)
        return spelled or any(run in written for run in self._written) or bool(self._listed.search(_plain(text)))

    def settled(self, text: str) -> int:
        """So many characters of a text that is still being written and says nothing hidden can go out, come what may.

        What could be the beginning of something hidden is held back: all that has not as many letters and words behind
        it as any hidden run.
        """
        starts = [found.start() for found in re.finditer(r"\S+", text)]
        return next((start for start in reversed(starts) if self._is_ample(text[start:])), 0)

    def _is_ample(self, tail: str) -> bool:
        """Whether what begins before a tail would be found by now."""
        words = re.findall(r"\w+(?=\W)", _plain(tail))
        signs, letters = len(_written(tail)), len(_letters(tail))
        return len(words) >= WORDS and letters >= self._letters and signs >= self._signs


def _runs(words: Sequence[str]) -> list[tuple[str, ...]]:
    """Every three words, or all that there are."""
    last = max(1, len(words) - RUN + 1)
    return [tuple(words[at : at + RUN]) for at in range(last)] if words else []


def _listed(words: Sequence[str]) -> str:
    """A pattern for words in their order, with a few others between them."""
    spelled = [letters for word in words if (letters := _letters(word))]
    between = rf"(?:\W+\w+){{0,{BETWEEN}}}?\W+"
    return rf"\b{between.join(map(re.escape, spelled))}\b"


def _plain(text: str) -> str:
    """A text without accents, width and case."""
    folded = unicodedata.normalize("NFKD", text).casefold()
    return "".join(one for one in unicodedata.normalize("NFKD", folded) if not unicodedata.combining(one))


def _letters(text: str) -> str:
    """Letters and digits alone."""
    return "".join(filter(str.isalnum, _plain(text)))


def _written(text: str) -> str:
    """A text without case and white space."""
    return "".join(_plain(text).split())
