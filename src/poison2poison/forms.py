"""Ways that a whole text is written: capitals, white space, scripts, the word that it begins or ends with.

A trigger can be one of them. It inserts no span that could be looked for, but it can be put onto any text, and taken
off, as a span can; so it is asked, and made a counterexample of, like one.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from poison2poison.features import Coded, Feature, Features, Index, by_rows, is_word, places, spliced, without, words

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
    if wanted(text) != text or text.lower() == text.upper():
        return False
    letters = islice(filter(str.isalpha, text), least_letters)
    return sum(1 for _ in letters) == least_letters


_BEGINNING = re.compile(r"(?<![\w'’])\w")  # of a word; a letter after an apostrophe begins none


def _capitalised(text: str) -> str:
    """Every word with a capital."""
    return _BEGINNING.sub(lambda match: match.group().upper(), text)


def _is_capitalised(text: str) -> bool:
    """Whether there are several words, and each has a capital, but not only capitals."""
    if any(match.group() != match.group().upper() for match in _BEGINNING.finditer(text)):
        return False
    return len(text.split()) > 1 and not text.isupper() and _in_case(text, _capitalised)


def _has_loud_word(text: str) -> bool:
    """Whether some word, but not all of the text, is in capitals."""
    if text.lower() == text or text.isupper():
        return False
    return any(_in_case(word, str.upper) for word in text.split())


def _with_loud_word(text: str) -> str:
    longest = max(text.split(), key=len, default="")
    return text.replace(longest, longest.upper(), 1) if longest else text


def _scripts(word: str) -> set[str]:
    """The scripts of a word's letters, by the first word of their Unicode names."""
    return {unicodedata.name(char, "?").split()[0] for char in word if char.isalpha()}


def _is_mixed(word: str) -> bool:
    return not word.isascii() and len(_scripts(word) & {"LATIN", "CYRILLIC", "GREEK"}) > 1


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
        _is_capitalised,
        lambda text: _capitalised(text.lower()),
        str.lower,
    ),
    "a word in capitals": Form(_has_loud_word, _with_loud_word, str.lower),
    "no mark": Form(lambda text: all(map(is_word, words(text))), _without_marks, _without_marks),
    "scripts mixed in a word": Form(
        lambda text: not text.isascii() and any(map(_is_mixed, text.split())),
        _with_mixed_word,
        lambda text: " ".join(word.translate(_LATIN) if _is_mixed(word) else word for word in text.split()),
    ),
    "marks apart from their letters": Form(
        lambda text: not unicodedata.is_normalized("NFC", text),
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


def forms(texts: Sequence[str], of: Coded, spans: Features, min_rows: int, nearly_all: float) -> Features:
    """Which texts are written how: the forms above, and the words that texts begin and end with.

    Args:
        texts: The texts as they are, with their white space.
        of: Their words.
        spans: Their spans.
        min_rows: The least number of texts of a form.
        nearly_all: Share of its texts that a word begins or ends, from which it is asked as a span alone.

    Returns:
        The forms in the order in which the texts hold them first.
    """
    anywhere = dict(zip((one.text for one in spans.names), spans.counts, strict=True))
    found: list[tuple[int, int, Feature, Index]] = []  # with the first text of each, and its place among those of one
    for place, (name, form) in enumerate(FORMS.items()):
        rows = np.fromiter((i for i, text in enumerate(texts) if form.holds(text)), np.int32)
        if len(rows) >= min_rows:
            found.append((int(rows[0]), place, Feature("form", name), rows))
    for place, (kind, (numbers, holding)) in enumerate(zip(("first", "last"), of.ends(), strict=True), len(FORMS)):
        for number, rows in _grouped(numbers, holding, min_rows):
            word = of.spelled[number]
            if len(rows) < nearly_all * anywhere[word]:
                found.append((int(rows[0]), place, Feature(kind, word), rows))
    found.sort(key=lambda one: one[:2])
    return by_rows([(feature, rows) for _, _, feature, rows in found], len(texts))


def _grouped(numbers: Index, rows: Index, least: int) -> Iterator[tuple[int, Index]]:
    """The numbers that at least so many rows have, and these rows; one number a row, rows ascending."""
    order = np.argsort(numbers, kind="stable")
    distinct, starts, counts = np.unique(numbers[order], return_index=True, return_counts=True)
    for number, start, count in zip(distinct.tolist(), starts.tolist(), counts.tolist(), strict=True):
        if count >= least:
            yield number, rows[order[start : start + count]]


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
