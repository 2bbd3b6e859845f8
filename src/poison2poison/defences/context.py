"""What row filters of the same rows share; each part is worked out when it is first asked for."""

from __future__ import annotations

from collections import Counter
from functools import cached_property

import numpy as np
from sklearn.decomposition import PCA

from poison2poison.auditing.statistics import Embed, Matrix
from poison2poison.config import ModelConfig
from poison2poison.data import Rows
from poison2poison.defences.causal_lm import CausalLM, HeadGradients
from poison2poison.defences.learner import Learner, teach
from poison2poison.errors import ConfigError
from poison2poison.features import Ints

LABEL_ROWS = 10
"""Rows of every completion from which on completions are taken for labels, as the audit takes them."""
ANSWER_AXES = 24
"""Principal axes of completions that the learner is taught, as many as the audit looks at."""


def labels_of(rows: Rows) -> Ints | None:
    """Each row's label as an index, shape (rows,); None where the targets are texts."""
    given = Counter(row.target for row in rows)
    if rows.task != "classification" and min(given.values(), default=0) < LABEL_ROWS:
        return None
    names = sorted(given)
    return np.array([names.index(row.target) for row in rows], np.int64)


class FilterContext:
    """Rows, and what a defender may work out from them. It holds no truth.

    Attributes:
        rows: The untrusted rows.
        texts: Their prompts, any white space in them one space.
        labels: Each row's label, shape (rows,); None where the targets are texts.
        classes: The labels; where targets are texts, all rows are of one class.
        seed: Of all draws.
    """

    def __init__(self, rows: Rows, embed: Embed, causal: ModelConfig | str | CausalLM | None = None, seed: int = 0):
        """Look at `rows`.

        Args:
            rows: The untrusted rows.
            embed: Frozen embeddings (`model.embeddings.embedder`).
            causal: The causal LM of the methods that need one; loaded when it is first asked for.
            seed: Of all draws.
        """
        self.rows, self.seed, self._embed, self._causal = rows, seed, embed, causal
        self.texts = [" ".join(row.text.split()) for row in rows]
        self.labels = labels_of(rows)
        self.classes: Ints = np.zeros(len(rows), np.int64) if self.labels is None else self.labels

    @cached_property
    def states(self) -> Matrix:
        """Standardised embeddings of the prompts, shape (rows, width)."""
        return self._standardised(self.texts)

    @cached_property
    def answers(self) -> Ints | Matrix:
        """What the learner is taught: labels, shape (rows,), or completions on their axes, shape (rows, axes)."""
        if self.labels is not None:
            return self.labels
        states = self._standardised([row.target for row in self.rows])
        axes = min(ANSWER_AXES, *states.shape)
        answers: Matrix = PCA(axes, whiten=True, random_state=self.seed).fit_transform(states)
        return answers

    @cached_property
    def learner(self) -> Learner:
        """A head that was trained on the rows."""
        return teach(self.states, self.answers, self.seed)

    @cached_property
    def causal(self) -> CausalLM:
        """The causal LM.

        Raises:
            ConfigError: None was given.
            ModelError: It cannot be loaded.
        """
        if self._causal is None:
            raise ConfigError("causal: this defence needs a causal LM; give a folder, a hub name, or `reference`")
        return self._causal if isinstance(self._causal, CausalLM) else CausalLM(self._causal)

    @cached_property
    def gradients(self) -> HeadGradients:
        """Of every row's loss, in the output layer of the causal LM, which was not trained on the rows."""
        return self.causal.head_gradients(self.rows, self.seed)

    def _standardised(self, texts: list[str]) -> Matrix:
        raw = self._embed(texts).reshape(len(texts), -1)
        states: Matrix = (raw - raw.mean(0)) / (raw.std(0) + 1e-6)
        return states
