"""What all finders need of the prompts, made once: their texts, features, and the base model's states."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from poison2poison.auditing.statistics import Embed, Matrix, States, principal_axes
from poison2poison.data import Rows
from poison2poison.features import extract, words
from poison2poison.forms import forms, one_spaced

AXES = 256
"""Of prompts' states, a quarter of the rows at most: tests on so few are fast, and linear in the rows."""
FORM = 0.9
"""Share of the prompts from which a word is one of their form, and no part of what was planted."""


class Context:
    """The prompts of some rows as finders see them.

    Attributes:
        texts: The prompts, any white space in them one space: else what is left around a cut tells the cut.
        form: Words that nearly all of them hold.
        spans: Their n-grams, and the forms that they are written in.
        patterns: Their first words, function-word patterns and forms.
        by_depth: Their standardised states, shape (rows, depths, width).
        states: The same on their principal axes, shape (rows, axes), with a spread of 1 on average.
        seed: Of all draws.
    """

    def __init__(self, rows: Rows, embed: Embed, min_rows: int, seed: int) -> None:
        self.texts, self.seed = [one_spaced(row.text) for row in rows], seed
        features = extract(self.texts, min_rows)
        spans, written = features.of("span"), forms([row.text for row in rows], features.of("span"), min_rows)
        self.spans = spans.beside(written)
        self.patterns = features.of("first", "skeleton").beside(written.of("form"))
        held = Counter(word for text in self.texts for word in set(words(text)))
        self.form = {word for word, count in held.items() if count > FORM * len(rows)}

        raw = embed(self.texts)
        self._embed, self._mean, self._deviation = embed, raw.mean(0), raw.std(0) + 1e-6
        self.by_depth: States = (raw - self._mean) / self._deviation
        flat: Matrix = self.by_depth.reshape(len(rows), -1)
        axes = principal_axes(flat, min(AXES, max(2, len(rows) // 4)))
        self._axes = axes / ((flat @ axes).std(0).mean() + 1e-6)
        self.states: Matrix = flat @ self._axes

    def embed(self, texts: Sequence[str]) -> Matrix:
        """The states of other texts on the prompts' axes, shape (texts, axes)."""
        if not len(texts):
            return self.states[:0]
        states: Matrix = ((self._embed(texts) - self._mean) / self._deviation).reshape(len(texts), -1) @ self._axes
        return states

    def standardised(self, texts: Sequence[str]) -> Matrix:
        """The states of texts of another kind, each dimension with a mean of 0 and a spread of 1 among them."""
        raw = self._embed(texts).reshape(len(texts), -1)
        flat: Matrix = (raw - raw.mean(0)) / (raw.std(0) + 1e-6)
        return flat
