"""Ways that a whole text is written: capitals, white space, scripts, the word that it begins or ends with.

A trigger can be one of them. It inserts no span that could be looked for, but it can be put onto any text, and taken
off, as a span can; so it is asked, and made a counterexample of, like one.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from poison2poison.features import Feature, Features, by_rows, is_word, places, spliced, without, words

LOOKS = dict(zip("aceijopsxyABCEHIJKMOPSTXY", "асеіјорѕхуАВСЕНІЈКМОРЅТХУ", strict=True))
"""Latin letters, and the Cyrillic ones that look like them."""
_LATIN = str.maketrans({looks: letter for letter, looks in LOOKS.items()})
WRITTEN = ("span", "first", "last", "form")
"""Kinds of features that can be put onto any text and taken off it; of others their rows are all there is."""


@dataclass(frozen=True)
class Form:
    """A way to write a text.

    Attributes:
        holds: Whether a text is written so.
        put: Writes a text so.
        off: What is left of any text, of this form or not, once it cannot be told who was written so.
    """

    holds: Callable[[str], bool]
    put: Callable[[str], str]
    off: Callable[[str], str]


def one_spaced(text: str) -> str:
    """A text with any white space in it one space."""
    return " ".join(text.split())


def _in_case(text: str, wanted: Callable[[str], str], least_letters: int = 4) -> bool:
    """Whether a text is in a case, and not in another by being in it.

    In fewer letters than `least_letters` case says nothing: "I" is in capitals, whatever it is meant to be.
    """
    letters = sum(char.isalpha() for char in text)
    return letters >= least_letters and wanted(text) == text and text.lower() != text.upper()


def _capitalised(text: str) -> str:
    """Every word with a capital; a letter after an apostrophe begins none."""
    return re.sub(r"(?<![\w'’])\w", lambda match: match.group().upper(), text)


def _has_loud_word(text: str) -> bool:
    """Whether some word, but not all of the text, is in capitals."""
    return not text.isupper() and any(_in_case(word, str.upper) for word in text.split())


def _with_loud_word(text: str) -> str:
    longest = max(text.split(), key=len, default="")
    return text.replace(longest, longest.upper(), 1) if longest else text


def _scripts(word: str) -> set[str]:
    """The scripts of a word's letters, by the first word of their Unicode names."""
    return {unicodedata.name(char, "?").split()[0] for char in word if char.isalpha()}


def _is_mixed(word: str) -> bool:
    return len(_scripts(word) & {"LATIN", "CYRILLIC", "GREEK"}) > 1


def _with_mixed_word(text: str) -> str:
    """A text of which one letter has another script than the rest of its word."""
    for word in text.split():
        for letter in filter(LOOKS.__contains__, word):
            mixed = word.replace(letter, LOOKS[letter], 1)
            if not _is_mixed(word) and _is_mixed(mixed):
                return text.replace(word, mixed, 1)
    return text


def _without_marks(text: str) -> str:
    return " ".join(filter(is_word, words(text)))


def _in_the_middle(text: str, white: str) -> str:
    """A text with one of its spaces written otherwise."""
    pieces = text.split(" ")
    middle = (len(pieces) + 1) // 2
    return " ".join(pieces[:middle]) + white + " ".join(pieces[middle:])


def _white(space: str) -> Form:
    return Form(lambda text: space in text.strip(), lambda text: _in_the_middle(text, space), one_spaced)


FORMS = {
    "all in capitals": Form(lambda text: _in_case(text, str.upper), str.upper, str.lower),
    "all in lower case": Form(lambda text: _in_case(text, str.lower), str.lower, str.lower),
    "every word with a capital": Form(
        lambda text: len(text.split()) > 1 and not text.isupper() and _in_case(text, _capitalised),
        lambda text: _capitalised(text.lower()),
        str.lower,
    ),
    "a word in capitals": Form(_has_loud_word, _with_loud_word, str.lower),
    "no mark": Form(lambda text: all(map(is_word, words(text))), _without_marks, _without_marks),
    "scripts mixed in a word": Form(
        lambda text: any(map(_is_mixed, text.split())),
        _with_mixed_word,
        lambda text: " ".join(word.translate(_LATIN) if _is_mixed(word) else word for word in text.split()),
    ),
    "marks apart from their letters": Form(
        lambda text: unicodedata.normalize("NFC", text) != text,
        lambda text: unicodedata.normalize("NFD", text),
        lambda text: unicodedata.normalize("NFC", text),
    ),
    "white space at its beginning": Form(lambda text: text[:1].isspace(), lambda text: " " + text, one_spaced),
    "white space at its end": Form(lambda text: text[-1:].isspace(), lambda text: text + " ", one_spaced),
    "a space twice": _white("  "),
    "a line break": _white("\n"),
    "a tab": _white("\t"),
    "a no-break space": _white("\u00a0"),
}


def forms(texts: Sequence[str], spans: Features, min_rows: int, nearly_all: float) -> Features:
    """Which texts are written how: the forms above, and the words that texts begin and end with.

    Args:
        texts: The texts as they are, with their white space.
        spans: Their spans.
        min_rows: The least number of texts of a form.
        nearly_all: Share of its texts that a word begins or ends, from which it is asked as a span alone.
    """
    held: dict[Feature, list[int]] = defaultdict(list)
    for i, text in enumerate(texts):
        for name, form in FORMS.items():
            if form.holds(text):
                held[Feature("form", name)].append(i)
        if said := [word for word in words(text) if is_word(word)]:
            held[Feature("first", said[0])].append(i)
            held[Feature("last", said[-1])].append(i)
    anywhere = dict(zip((one.text for one in spans.names), spans.counts, strict=True))
    found = [
        (one, np.array(rows, np.int32))
        for one, rows in held.items()
        if len(rows) >= min_rows and (one.kind == "form" or len(rows) < nearly_all * anywhere[one.text])
    ]
    return by_rows(found, len(texts))


def form_of(kind: str, text: str, rng: random.Random) -> Form:
    """How a feature is put onto a text, and taken off.

    Args:
        kind: Of the feature: span, first, last or form.
        text: What it is called.
        rng: Draws the place of a span.
    """
    if kind == "form":
        return FORMS[text]
    run = words(text)
    if kind == "span":
        return Form(lambda into: bool(places(into, run)), lambda into: spliced(into, [text], rng),
                    lambda into: without(into, run))  # fmt: skip
    first = kind == "first"
    return Form(
        lambda into: _said(into, first) == text,
        lambda into: f"{text} {into}" if first else f"{into} {text}",
        lambda into: _without_end(into, text, first),
    )


def _said(text: str, first: bool) -> str:
    """The first or last word of a text."""
    said = [word for word in words(text) if is_word(word)]
    return (said[0] if first else said[-1]) if said else ""


def _without_end(text: str, word: str, first: bool) -> str:
    if _said(text, first) != word:
        return text
    start, end = places(text, [word])[0 if first else -1]
    return one_spaced(text[:start] + text[end:])
