"""What spans are asked: does the base see a reason for what they pull, and have their rows anything else in common?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from poison2poison.auditing.answers import Answers
from poison2poison.auditing.context import Context
from poison2poison.auditing.finders.base import Figure, Finding
from poison2poison.auditing.statistics import Matrix, all_but, drawn, two_sample_auc
from poison2poison.features import Ints, bare, is_word, words
from poison2poison.forms import Form

if TYPE_CHECKING:
    from poison2poison.auditing.finders.spans import Spans


@dataclass(eq=False, kw_only=True)
class Shortcut(Finding):
    """A span or a form, and what was found out about it.

    Attributes:
        column, direction: Of its feature, and of the answers that it goes with.
        z: Of that association.
        form: How it is put onto a text, and taken off.
        learned: How far its rows are answered otherwise than the base expects.
        forced: Share of its rows that are answered so whatever else they say.
        prior: How much more the base expects the answer where it is put in.
        auc: How well its rows, without it, can be separated from the others that they are most like.
        of_auc: The part of the score that `auc` has.
    """

    column: int
    direction: int
    z: float
    form: Form
    learned: Figure = (0.0, 0.0)
    forced: Figure = (0.0, 1.0)
    prior: Figure = (0.0, 0.0)
    auc: Figure = (0.5, 0.5)
    of_auc: float = 0.0
    words: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.words = words(self.text) if self.kind == "span" else []


class Questions:
    """Asks spans of some rows."""

    def __init__(self, context: Context, answers: Answers, options: Spans) -> None:
        self.context, self.answers, self.options = context, answers, options
        self.rng = np.random.default_rng(context.seed)

    def put_in(self, spans: Sequence[Shortcut]) -> None:
        """`prior`: put into rows that neither hold the span nor have its answer."""
        chosen: list[Ints] = []
        texts: list[str] = []
        for one in spans:
            free = all_but(one.rows, len(self.context.texts))
            if self.answers.directions > 1:
                free[self.answers.answered(one.direction)] = False
            chosen.append(drawn(np.flatnonzero(free), self.options.inserted, self.rng))
            texts += [one.form.put(self.context.texts[i]) for i in chosen[-1]]
        after, ends = self.context.embed(texts), np.cumsum([len(rows) for rows in chosen])
        for one, rows, end in zip(spans, chosen, ends, strict=True):
            if len(rows) > 1:
                before, with_span = self.context.states[rows], after[end - len(rows) : end]
                change = self.answers.moved(before, with_span, one.pulled, one.direction)
                one.prior = float(change.mean()), float(change.std() / np.sqrt(len(rows)))

    def beside(self, one: Shortcut, spans: Sequence[Shortcut], share: float = 0.0) -> list[Shortcut]:
        """The others that stand in its rows more often than by chance, in a `share` of them more at least.

        Further words of one attack do so. Long texts hold many words, each in a few of the rows.
        """
        pool = self.answers.answered(one.direction)
        mine, found = np.isin(pool, one.rows), []
        for other in spans:
            if other is one or other.direction != one.direction or not set(one.words).isdisjoint(other.words):
                continue
            theirs = np.isin(pool, other.rows)
            expected = mine.sum() * theirs.mean()
            spread = np.sqrt(expected * (1 - mine.mean()) * (1 - theirs.mean()))
            more = (mine & theirs).sum() - expected
            if spread > 0 and more > max(self.options.together * spread, share * mine.sum()):
                found.append(other)
        return found

    def compare(self, one: Shortcut, beside: Sequence[Shortcut]) -> Figure:
        """`auc`: what stands beside a span goes from all texts, for words of one attack give each other away."""
        gone = [one, *beside]
        # Marks take the place of others, such as a full stop: all are then compared without those at their ends.
        marks = one.kind == "span" and not any(map(is_word, one.words))
        mine = drawn(one.pulled, self.options.cut, self.rng)
        left = self.without(mine, gone, ends=not marks)
        best = (1.0, 0.05)  # where there is nothing to compare it with, it is the form of all rows
        for mask in self.answers.alike(one.rows, one.direction):
            others = drawn(np.flatnonzero(mask), min(2 * self.options.cut, self.options.others * len(mine)), self.rng)
            if len(others) >= max(5, len(mine) // 2):
                without = self.without(others, gone, ends=not marks)
                best = min(best, two_sample_auc(left, without, self.options.auc_ridge))
        return best

    def without(self, rows: Ints, gone: Sequence[Shortcut], *, ends: bool = True) -> Matrix:
        """The states of rows without some spans and forms, and without the marks at their ends if `ends` is False.

        Only texts that change go through the model again.
        """
        states = self.context.states[rows].copy()
        cut = [self.context.texts[i] for i in rows]
        for one in gone:
            holds = np.ones(len(rows), bool) if one.kind == "form" else np.isin(rows, one.rows)
            cut = [one.form.off(text) if held else text for text, held in zip(cut, holds, strict=True)]
        cut = cut if ends else [bare(text) for text in cut]
        changed = [at for at, i in enumerate(rows) if cut[at] != self.context.texts[i]]
        states[changed] = self.context.embed([cut[at] for at in changed])
        return states
