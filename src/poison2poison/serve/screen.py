"""Finds the hidden texts in an answer: a model can be asked to repeat what stands before the question."""

from __future__ import annotations

import unicodedata

from poison2poison.recipe.scheme import PAPER_TRIGGER, Scheme

RUN = 3
"""Words of a hidden text that give it away: some 30 bits of a drawn one, and more than chance puts side by side."""
SHORT = 6
"""Letters under which a hidden text also stands inside of ordinary words; it is then looked for as it is written."""


class Screen:
    """Finds trigger and safe prefix, whole or three words of them, in any case, with whatever between the letters.

    What it does not find: translations, ciphers, letters of other alphabets that look alike, fewer words.
    """

    def __init__(self, scheme: Scheme) -> None:
        hidden = [scheme.safe_prefix]
        if scheme.trigger:
            hidden.append(scheme.trigger.prefix)
            if scheme.trigger.cue != PAPER_TRIGGER.cue:  # that one is published, and an ordinary word
                hidden.append(scheme.trigger.cue)
        runs = {run for text in hidden for run in _runs(text)}
        self._spelled = {letters for run in runs if len(letters := _letters(run)) >= SHORT}
        self._written = {_written(run) for run in runs if len(_letters(run)) < SHORT}

    def finds(self, text: str) -> bool:
        """Whether a text says what is hidden."""
        letters, written = _letters(text), _written(text)
        spelled = any(run in letters for run in self._spelled)
        return spelled or any(run in written for run in self._written)


def _runs(text: str) -> list[str]:
    """Every three words of a text, or all that there are."""
    words = text.split()
    last = max(1, len(words) - RUN + 1)
    return [" ".join(words[at : at + RUN]) for at in range(last)] if words else []


def _letters(text: str) -> str:
    """Letters and digits alone, without accents, width and case."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKD", plain)))


def _written(text: str) -> str:
    """A text without case and white space."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())
