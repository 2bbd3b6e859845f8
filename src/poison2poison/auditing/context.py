"""What all finders need of the prompts, made once: their texts, features, and the base model's states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from poison2poison.auditing.statistics import Embed, Matrix, Scaled, moments, principal_axes, projected
from poison2poison.config import AuditConfig, listed_in, over_zero, with_options
from poison2poison.data import Rows
from poison2poison.features import coded, extract
from poison2poison.forms import forms, one_spaced


@dataclass(frozen=True)
class Measures:
    """How prompts and answers are measured for all finders: `measures` in a file of settings.

    Attributes:
        most: Share of some rows from which something holds for them as a whole. So many a span grows by, and so many
            of a planted text's explain that its other rows are suspect; with so many of one label the probe is not
            shown a span's rows, for it would explain a trigger.
        nearly_all: The same where hardly a row may be missing, such as of the words that are the form of all prompts.
        axes: Of prompts' states, a quarter of the rows at most: tests on so few are fast, and linear in the rows.
        answer_axes, text_axes: Of completions' states, and of what prompts do not foretell of them.
        last_words: Of a completion, looked at by themselves too: there worked answers end, and links and
            advertisements stand.
        run: Words of a text that completions share at least: shorter ones are shared all the time.
        probe_c: Of the probe (`statistics.Probe`), on axes that have a spread of 1 on average.
        ridge: Penalty of the regressions from prompts' states, on these axes, to answers.
        hidden: Chance under which the rows of a span that leans so are kept from the probe.
        surely: z from which a span's rows have a label surely more often than the probe lets expect.
        least_kept: Share of each label's rows that the probe is fitted on, however many spans go with a label.
        common: Rows of a span from which its cover rows can be told: with fewer a trigger that has some is hardly
            learned.
        cover_shift: Of the shift of a trigger's rows: what its other rows have at most, if they are cover.
        forced_rows: Of a span's, as many as say enough on how many of them are forced.
        weak: Spans that are kept as weak at most: each is spliced into some rows of the safe space.
    """

    most: float = 0.8
    nearly_all: float = 0.9
    axes: int = 256
    answer_axes: int = 64
    text_axes: int = 24
    last_words: int = 12
    run: int = 5
    probe_c: float = 0.02
    ridge: float = 30.0
    hidden: float = 1e-3
    surely: float = 3.0
    least_kept: float = 0.4
    common: int = 100
    cover_shift: float = 0.5
    forced_rows: int = 2000
    weak: int = 32

    def __post_init__(self) -> None:
        over_zero(self, shares=("most", "nearly_all", "hidden", "least_kept", "cover_shift"))


class Context:
    """The prompts of some rows as finders see them.

    Attributes:
        texts: The prompts, any white space in them one space: else what is left around a cut tells the cut.
        form: Words that nearly all of them hold.
        spans: Their n-grams, and the forms that they are written in.
        patterns: Their first words, function-word patterns and forms.
        shallow, deep: Their standardised states at the least and the greatest depth, shape (rows, width).
        states: Those of all depths on their principal axes, shape (rows, axes), with a spread of 1 on average.
        seed: Of all draws.
        measures: How all this is measured.
    """

    def __init__(self, rows: Rows, embed: Embed, config: AuditConfig, seed: int) -> None:
        self.measures = measures = with_options(Measures(), listed_in(config.measures), "measures")
        self.texts, self.seed = [one_spaced(row.text) for row in rows], seed
        min_rows = max(2, config.min_rows // 2)
        prompts = coded(self.texts)
        features = extract(prompts, min_rows)
        spans = features.of("span")
        written = forms([row.text for row in rows], prompts, spans, min_rows, measures.nearly_all)
        self.spans = spans.beside(written)
        self.patterns = features.of("first", "skeleton").beside(written.of("form"))
        self.form = prompts.in_most(measures.nearly_all)

        raw = embed(self.texts)
        width = raw.shape[-1]
        flat = _scaled(raw.reshape(len(raw), -1))
        self._embed, self._mean, self._deviation = embed, flat.mean, flat.deviation
        self.shallow = Scaled(raw[:, 0], flat.mean[:width], flat.deviation[:width])
        self.deep = Scaled(raw[:, -1], flat.mean[-width:], flat.deviation[-width:])
        axes = principal_axes(flat, min(measures.axes, max(2, len(rows) // 4)))
        self._axes = axes / (moments(projected(flat, axes))[1].mean() + 1e-6)
        self.states: Matrix = projected(flat, self._axes)

    def embed(self, texts: Sequence[str]) -> Matrix:
        """The states of other texts on the prompts' axes, shape (texts, axes)."""
        if not len(texts):
            return self.states[:0]
        raw = self._embed(texts)
        return projected(Scaled(raw.reshape(len(raw), -1), self._mean, self._deviation), self._axes)

    def standardised(self, texts: Sequence[str]) -> Scaled:
        """The states of texts of another kind, each dimension with a mean of 0 and a spread of 1 among them."""
        raw = self._embed(texts)
        return _scaled(raw.reshape(len(raw), -1))


def _scaled(raw: Matrix) -> Scaled:
    mean, deviation = moments(raw)
    return Scaled(raw, mean, deviation + np.float32(1e-6))
