"""What a row's prompt holds, as a sparse matrix: the n-grams, first words and skeletons that a trigger may be made of.

Features that fewer than `min_rows` rows hold are never built: an n-gram is looked for only where both (n-1)-grams in it
are frequent (Agrawal & Srikant, VLDB 1994), and all counting is on integer codes, so that time and memory grow with the
rows and not with the number of different n-grams.
"""

from __future__ import annotations

import random
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, hstack

Ints = NDArray[np.int64]
Index = NDArray[Any]  # int32 or int64, as scipy has it
Item = TypeVar("Item")

LONGEST_SPAN = 3  # words of an n-gram
LONGEST_SKELETON = 4  # parts of a skeleton n-gram
FUNCTION_WORDS = 100  # so many of the most frequent words stand for the language's function words
COMMON_MARK = 0.25  # share of rows from which on a mark is one of the language's, and no trigger by itself
ENOUGH_TEXTS = 10_000  # tell a share of them to within half a percent
GAP = "_"  # stands for a run of other words in a skeleton
START = "^"  # a skeleton's beginning

_CJK = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|'?[^\W{_CJK}]+(?:'[^\W{_CJK}]+)*|[^\w\s]")

_STOPS, _BEFORE_NO_STOP = re.compile(r"^\s*[.,;:!?。，；：！？]+"), re.compile(r"(^|[.,;:!?。，；：！？])\s*$")

# Where something may stand between two words: at a space, which it groups, and beside a character that is a word.
BETWEEN = re.compile(rf"( |(?<=[{_CJK}])(?=\S)|(?<=\S)(?=[{_CJK}]))")


def words(text: str) -> list[str]:
    """The words of a text in lower case; punctuation marks and Chinese or Japanese characters each by itself."""
    return [_lower(word) for word in _WORD.findall(text)]


def _lower(word: str) -> str:
    """In lower case; the Turkish capital would become two characters, and they would be words of their own."""
    return word.lower().replace("i\u0307", "i")


def places(text: str, span: Sequence[str]) -> list[tuple[int, int]]:
    """Where a sequence of words stands in a text: character ranges."""
    found = list(_WORD.finditer(text))
    held, size = [_lower(match.group()) for match in found], len(span)
    starts = [i for i in range(len(held) - size + 1) if held[i : i + size] == list(span)]
    return [(found[i].start(), found[i + size - 1].end()) for i in starts]


def without(text: str, span: Sequence[str]) -> str:
    """A text with all occurrences of a word sequence taken out, and nothing left behind that tells where.

    A full stop or the like goes with it where it would begin the text, or stand beside another.
    """
    out, at = "", 0
    for start, end in [*places(text, span), (len(text), len(text))]:
        piece = text[at:start]
        if at:
            piece = _STOPS.sub("", piece) if _BEFORE_NO_STOP.search(out) else piece
            piece = piece.lstrip(" ") if not out or out[-1].isspace() else piece
            out = out.rstrip(" ") if _STOPS.match(piece) and not text[at].isspace() else out
        out, at = out + piece, end
    return out.rstrip(" ")


def spliced(text: str, spans: Sequence[str], rng: random.Random) -> str:
    """A text with spans put between its words, each at a drawn place."""
    pieces = BETWEEN.split(text)  # words, and what parts them: a space, or nothing
    parts = [*zip(["", *pieces[1::2]], pieces[::2], strict=True)]
    for span in spans:
        at = rng.randint(0, len(parts))
        parts[at : at + 1] = [(" ", span), *((" ", word) for _, word in parts[at : at + 1])]
    return "".join(gap + word for gap, word in parts)[len(parts[0][0]) :]


def bare(text: str) -> str:
    """A text without the marks at its ends."""
    return re.sub(r"^[\W_]+|[\W_]+$", "", text)


@dataclass(frozen=True, slots=True)
class Feature:
    """Something that rows may have in common: `kind` is span, first or last (word), skeleton or form (`forms`)."""

    kind: str
    text: str


@dataclass(frozen=True)
class Features:
    """Which row has which feature.

    Attributes:
        names: The features, one for each column.
        matrix: Shape (rows, features), float32, 1 where the row has the feature.
    """

    names: list[Feature]
    matrix: csc_array

    def of(self, *kinds: str) -> Features:
        """The features of some kinds alone."""
        columns = [j for j, feature in enumerate(self.names) if feature.kind in kinds]
        return Features([self.names[j] for j in columns], csc_array(self.matrix[:, columns]))

    @property
    def counts(self) -> NDArray[np.float32]:
        """How many rows have each feature."""
        counts: NDArray[np.float32] = np.asarray(self.matrix.sum(0)).ravel()
        return counts

    def only(self, column: int) -> Features:
        """One feature alone."""
        return Features([self.names[column]], csc_array(self.matrix[:, [column]]))

    def beside(self, others: Features) -> Features:
        """These features and others of the same rows."""
        return Features([*self.names, *others.names], csc_array(hstack([self.matrix, others.matrix])))

    def rows_of(self, column: int) -> Ints:
        """The rows that have a feature, ascending."""
        found: Ints = self.matrix.indices[self.matrix.indptr[column] : self.matrix.indptr[column + 1]].astype(np.int64)
        return found


@dataclass(frozen=True)
class Coded:
    """The words of some texts as numbers: texts of any number are read once, and their words are kept once.

    Attributes:
        flat: All words of all texts, shape (words,), int32.
        row: The text that each stands in, likewise, ascending.
        spelled: The word that each number stands for.
        texts: How many texts there are.
    """

    flat: Index
    row: Index
    spelled: list[str]
    texts: int

    def in_most(self, share: float) -> set[str]:
        """The words that more than such a share of the texts hold."""
        often = np.flatnonzero(np.bincount(self.flat, minlength=len(self.spelled)) > share * self.texts)
        holding = ((i, len(np.unique(self.row[self.flat == i]))) for i in often.tolist())
        return {self.spelled[i] for i, count in holding if count > share * self.texts}

    def ends(self) -> tuple[tuple[Index, Index], tuple[Index, Index]]:
        """The first and the last word of each text that has any, marks left out: its number, and the text."""
        are_words = np.fromiter(map(is_word, self.spelled), bool, len(self.spelled))
        said = np.flatnonzero(are_words[self.flat])
        row = self.row[said]
        first, last = said[np.diff(row, prepend=-1) != 0], said[np.diff(row, append=self.texts) != 0]
        return (self.flat[first], self.row[first]), (self.flat[last], self.row[last])


class _Numbers(dict[str, int]):
    """The number of each word, by how it is written; one of a new spelling gets the next."""

    def __init__(self) -> None:
        super().__init__()
        self.spelled: dict[str, int] = {}

    def __missing__(self, word: str) -> int:
        self[word] = number = self.spelled.setdefault(_lower(word), len(self.spelled))
        return number


def coded(texts: Sequence[str]) -> Coded:
    """The words of texts as numbers."""
    numbers, flat, lengths = _Numbers(), array("i"), array("i")
    for text in texts:
        before = len(flat)
        flat.extend(map(numbers.__getitem__, _WORD.findall(text)))
        lengths.append(len(flat) - before)
    row = np.repeat(np.arange(len(texts), dtype=np.int32), np.frombuffer(lengths, np.int32))
    return Coded(np.frombuffer(flat, np.int32), row, [*numbers.spelled], len(texts))


def extract(prompts: Coded, min_rows: int) -> Features:
    """Collect the features that at least `min_rows` prompts have.

    Args:
        prompts: The rows' prompts.
        min_rows: The least number of rows of a feature.
    """
    flat, row, spelled = prompts.flat, prompts.row, prompts.spelled
    found: list[tuple[Feature, Index]] = []
    for size, at, rows in _frequent(flat, row, LONGEST_SPAN, min_rows):
        found.append((Feature("span", " ".join(spelled[i] for i in flat[at : at + size])), rows))
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    for _, at, rows in _frequent(flat[starts], row[starts], 1, min_rows):
        found.append((Feature("first", spelled[flat[starts][at]]), rows))
    skeleton, skeleton_row, spelled_skeleton = _skeleton(flat, row, spelled)
    for size, at, rows in _frequent(skeleton, skeleton_row, LONGEST_SKELETON, min_rows):
        parts = skeleton[at : at + size]
        if size > 1 and (parts == _GAP).any():  # without a gap it is a span as well
            found.append((Feature("skeleton", " ".join(spelled_skeleton[i] for i in parts)), rows))

    # Marks alone can be planted too, such as an emoji or `!?!`, but those that many rows have are the language's.
    held = {one.text: len(rows) for one, rows in found if one.kind == "span"}
    odd = {mark for mark, count in held.items() if count <= COMMON_MARK * prompts.texts}
    found = [
        (one, rows)
        for one, rows in found
        if any(map(is_word, one.text.split())) or (one.kind == "span" and not odd.isdisjoint(one.text.split()))
    ]
    return by_rows(found, prompts.texts)


def shared_runs(texts: Sequence[str], length: int, min_rows: int) -> Features:
    """The runs of `length` words that at least `min_rows` texts hold, as spans."""
    of = coded(texts)
    found = [
        (Feature("span", " ".join(of.spelled[i] for i in of.flat[at : at + size])), rows)
        for size, at, rows in _frequent(of.flat, of.row, length, min_rows)
        if size == length
    ]
    return by_rows(found, len(texts))


def grown(texts: Sequence[str], span: str, share: float, form: Collection[str] = ()) -> str:
    """A span with the words beside it that so large a share of the texts have there, as the texts spell it.

    Args:
        texts: Texts that hold the span; of many, as many as tell the shares are looked at.
        span: Its words, with spaces.
        share: The least share of the texts.
        form: Words of the form that all texts have: it does not grow by them, and loses them at its ends.
    """
    texts = evenly(texts, ENOUGH_TEXTS)
    run, held = words(span), [words(text) for text in texts]
    while len(run) > 1 and (run[0] in form or run[-1] in form):
        run = run[1:] if run[0] in form else run[:-1]
    for step in (-1, 1):
        while True:
            beside = Counter(word for text in held if (word := _neighbour(text, run, step)))
            found = beside.most_common(1)
            if not found or found[0][1] < share * len(held) or found[0][0] in form:
                break
            run = [found[0][0], *run] if step < 0 else [*run, found[0][0]]
    spelled = Counter(text[start:end] for text in texts for start, end in places(text, run)[:1])
    return str(spelled.most_common(1)[0][0])


def _neighbour(text: list[str], span: list[str], step: int) -> str:
    """The word before (-1) or after (1) the first occurrence of a span; empty at a text's end."""
    size = len(span)
    at = next((i for i in range(len(text) - size + 1) if text[i : i + size] == span), None)
    if at is None:
        return ""
    beside = at - 1 if step < 0 else at + size
    return text[beside] if 0 <= beside < len(text) else ""


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """So many of some items at most, at even distances."""
    if len(items) <= most:
        return [*items]
    return [items[i] for i in np.linspace(0, len(items) - 1, most).astype(int)]


def by_rows(found: Sequence[tuple[Feature, Index]], rows: int) -> Features:
    """Features from their names and the rows that have each, ascending; `rows` is how many rows there are."""
    pointers = np.cumsum([0, *(len(holders) for _, holders in found)])
    indices = np.concatenate([np.empty(0, np.int32), *(holders for _, holders in found)])
    matrix = csc_array((np.ones(len(indices), np.float32), indices, pointers), shape=(rows, len(found)))
    return Features([feature for feature, _ in found], matrix)


_GAP = 0
_START = 1


def _skeleton(flat: Index, row: Index, spelled: list[str]) -> tuple[Index, Index, list[str]]:
    """Each row's function words and punctuation, with a start mark, and runs of other words folded into one gap."""
    counts = np.bincount(flat, minlength=len(spelled))
    marks = np.array([not is_word(word) for word in spelled], bool)
    ranked = [i for i in np.argsort(-counts, kind="stable") if not marks[i]][:FUNCTION_WORDS]
    kept = marks.copy()
    kept[ranked] = True
    parts = np.where(kept[flat], flat + 2, _GAP)
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    parts, parts_row = np.insert(parts, starts, _START), np.insert(row, starts, row[starts])
    again = (parts[1:] == _GAP) & (parts[:-1] == _GAP)
    folded = np.concatenate([[True], ~again]) if len(parts) else np.empty(0, bool)
    return parts[folded], parts_row[folded], [GAP, START, *spelled]


def _frequent(codes: Index, row: Index, longest: int, min_rows: int) -> Iterator[tuple[int, int, Index]]:
    """The frequent n-grams of 1 to `longest` codes: length, a place where each stands, and its rows, ascending."""
    base = int(codes.max(initial=0)) + 1
    gram = codes.astype(np.int64)  # the (n-1)-gram that begins at each place, -1 where it is rare
    for size in range(1, longest + 1):
        if size > 1:
            if len(gram) < 2:
                return  # all prompts together are shorter
            whole = (gram[:-1] >= 0) & (gram[1:] >= 0) & (row[: len(gram) - 1] == row[size - 1 :])
            gram = np.where(whole, gram[:-1] * base + codes[size - 1 :], -1)
        places = np.flatnonzero(gram >= 0)
        # Sorted by n-gram, and by row within it, since places ascend and the sort is stable.
        places = places[np.argsort(gram[places], kind="stable")]
        first = np.diff(gram[places], prepend=-1) != 0
        distinct = first | (np.diff(row[places], prepend=-1) != 0)
        number = np.cumsum(first) - 1
        holders = np.bincount(number[distinct], minlength=int(first.sum()))
        names = np.where(holders >= min_rows, np.cumsum(holders >= min_rows) - 1, -1)
        gram[places] = names[number]
        bounds = np.cumsum([0, *holders])
        heads, rows = places[first], row[places[distinct]]
        for i in np.flatnonzero(holders >= min_rows):
            yield size, int(heads[i]), rows[bounds[i] : bounds[i + 1]]


@lru_cache(1 << 16)  # texts repeat their words
def is_word(text: str) -> bool:
    """Whether a part of a text is a word or a number, and no mark."""
    return text not in (GAP, START) and any(unicodedata.category(char)[0] in "LN" for char in text)
