"""Was a span planted? The tests of the audit that take spans out of prompts, and put them into others."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import numpy as np

from poison2poison.data import Rows
from poison2poison.features import Ints, bare, extract, grown, is_word, without, words
from poison2poison.probing import (
    INNOCENT_SET,
    Classifier,
    Embed,
    Floats,
    Matrix,
    fit_probe,
    p_by_others,
    told_apart,
    told_apart_by_words,
)
from poison2poison.recipe.counterexamples import spliced

Found = tuple[int, int, float]  # column of a span, label, z

FORM = 0.9  # words that so many prompts hold are their form
DELETED_ROWS = 200  # rows of a span on which the deletion test is made
CONTEXT_SHARE = 0.8  # a span grows by a word that so many of its suspect rows have beside it
SURELY = 3.0  # standard errors by which rows have a label more often than their texts say
INSERTED_ROWS, MOVED = 64, 0.875  # rows of the insertion test; a span that moves more of them is of the language


class Prompts:
    """What all audits of some rows need of their prompts.

    Attributes:
        sha256: Hash of the rows.
        texts: The prompts, any white space in them one space: else what the deletion test leaves around a cut tells the
            cut from other rows, and clears what was planted.
        form: Words that nearly all of them hold.
        spans, patterns: Their n-grams; their first words and skeletons.
        by_depth: Their standardised states, shape (rows, depths, width).
        states: The same, shape (rows, depths * width).
    """

    def __init__(self, rows: Rows, embed: Embed, min_rows: int) -> None:
        self.sha256 = rows.sha256
        self.texts = [" ".join(row.text.split()) for row in rows]
        features = extract(self.texts, min_rows)
        self.spans, self.patterns = features.of("span"), features.of("first", "skeleton")
        held = Counter(word for text in self.texts for word in set(words(text)))
        self.form = {word for word, count in held.items() if count > FORM * len(rows)}
        raw = embed(self.texts)
        self._mean, self._deviation, self._embed = raw.mean(0), raw.std(0) + 1e-6, embed
        self.by_depth = (raw - self._mean) / self._deviation
        self.states: Matrix = self.by_depth.reshape(len(rows), -1)

    def embed(self, texts: Sequence[str]) -> Matrix:
        """The standardised states of other texts, shape (texts, depths * width)."""
        states: Matrix = (self._embed(texts) - self._mean) / self._deviation
        return states.reshape(len(texts), -1)


class SpanTests:
    """What can be asked of a span, given by its column, in rows of which each has a label.

    Attributes:
        prompts, spans: The rows' prompts, and the spans that these share.
        labels, given: The rows' labels as indices, shape (rows,); 1 where a row has a label, shape (rows, labels).
        probe: Fitted on rows without a candidate (`probing.fit_probe`).
        planted_auc: The AUC up to which two sets of rows pass for alike.
        seed: Of folds and draws.
    """

    def __init__(
        self, prompts: Prompts, labels: Ints, given: Floats, probe: Classifier, planted_auc: float, seed: int
    ) -> None:
        self.prompts, self.spans, self.labels, self.given, self.probe = prompts, prompts.spans, labels, given, probe
        self.planted_auc, self.seed, self.rng = planted_auc, seed, np.random.default_rng(seed)
        self._grown: dict[tuple[int, int], str] = {}

    def purity(self, column: int, label: int) -> float:
        """Share of a span's rows that have a label."""
        return float((self.labels[self.spans.rows_of(column)] == label).mean())

    def grown(self, column: int, label: int) -> str:
        """The span with the words that nearly all of its suspect rows have beside it, as the rows spell it."""
        if (column, label) not in self._grown:
            holders = self.spans.rows_of(column)
            texts = [self.prompts.texts[i] for i in holders[self.labels[holders] == label]]
            self._grown[column, label] = grown(texts, self.spans.names[column].text, CONTEXT_SHARE, self.prompts.form)
        return self._grown[column, label]

    def planted(self, column: int, label: int, over: Sequence[tuple[float, int, int]]) -> bool:
        """The deletion test: without the span, can its rows be told from those that an attacker may have taken?

        These are rows of other labels, where the attacker changed labels too; rows of the target, where not; or a mix,
        which is drawn after what the probe thinks of the rows.
        """
        holders = self.spans.rows_of(column)
        rows = self._draw(holders[self.labels[holders] == label], DELETED_ROWS)
        cut = self._planted_with(column, label, over)
        left = [without(self.prompts.texts[i], cut) for i in rows]
        # Marks that were cut took the place of some, such as a full stop: so all are compared without their ends.
        marked = not any(_has_words(" ".join(span)) for span in cut)
        left = [bare(text) for text in left] if marked else left
        deleted = self.prompts.embed(left)
        others = self._draw(np.setdiff1d(np.arange(len(self.labels)), holders), 20 * DELETED_ROWS)
        if not len(others):
            return False  # a span that all rows hold is their form
        taken = self.labels[others] != label
        thought, pool = self.probe.predict(deleted), self.probe.predict(self.prompts.states[others])
        mix = [self._draw(others[pool == c], int((thought == c).sum())) for c in np.unique(thought)]
        for number, alike in enumerate((others[taken], others[~taken], np.concatenate(mix))):
            if not len(alike) or (number and len(alike) < len(rows)):
                continue
            drawn = self._draw(alike, max(len(rows), DELETED_ROWS))
            texts = [self.prompts.texts[i] for i in drawn]
            texts = [bare(text) for text in texts] if marked else texts
            auc = told_apart(deleted, self.prompts.embed(texts) if marked else self.prompts.states[drawn], self.seed)
            if auc <= self.planted_auc:
                auc = told_apart_by_words(left, texts, self.seed)
                if auc <= self.planted_auc:
                    return True
        return False

    def _planted_with(self, column: int, label: int, over: Sequence[tuple[float, int, int]]) -> list[list[str]]:
        """The span and the others that pull to the label as purely: several words of one attack share rows.

        Each is grown to what was planted, and longer ones around it, which hold words of the rows, are left out.
        """
        least, names = self.purity(column, label) - 0.05, self.spans.names
        pure = [j for _, j, c in over if c == label and self.purity(j, c) >= least]
        if _has_words(names[column].text):  # the marks beside a word are the language's
            pure = [j for j in pure if _has_words(names[j].text)]
        padded = {j: f" {names[j].text} " for j in pure}
        shortest = [j for j in pure if not any(padded[k] in padded[j] for k in pure if k != j)]
        # A part of the span goes with it; where it stands elsewhere, it is a word of the language.
        own = words(self.grown(column, label))
        others = [words(self.grown(j, label)) for j in shortest]
        return [own, *(span for span in others if f" {' '.join(span)} " not in f" {' '.join(own)} ")]

    def meaningless(self, found: Sequence[Found]) -> list[Found]:
        """The insertion test: those spans that, put into other rows, say nothing to a probe that has not seen theirs.

        A word of the language that goes with a label says it wherever it stands.
        """
        held = np.zeros(len(self.labels), bool)
        for column, _, _ in found:
            held[self.spans.rows_of(column)] = True
        if not held.any() or held.all():
            return list(found)
        others, places = np.flatnonzero(~held), random.Random(self.seed)
        rows = self._draw(others, INSERTED_ROWS)
        texts = [self.prompts.texts[i] for i in rows]
        for column, label, _ in found:
            texts += [spliced(text, [self.grown(column, label)], places) for text in texts[: len(rows)]]
        p = self._p_of_texts(texts, others).reshape(1 + len(found), len(rows), -1)
        return [(column, label, z) for (column, label, z), with_span in zip(found, p[1:], strict=True)
                if (with_span[:, label] > p[0, :, label]).mean() <= MOVED]  # fmt: skip

    def set_label(self, column: int, label: int, others: Ints) -> int | None:
        """The label that the span's rows have surely more often than their texts say without it; the others are cover.

        None where that cannot be told: cover taken for poison would lead the poison into the safe space.

        How many of the texts are of each label follows from the mean of a probe's p over them, which is a mix of its
        means over the labels' `others`, rows that nobody touched (the scaled probability average of Bella et al., ICDM
        2010). So a probe that hardly knows the labels cannot tell, and a label of which the attack left few rows is not
        taken for a rare one.
        """
        if not len(others):
            return None
        drawn, span = self._draw(self.spans.rows_of(column), DELETED_ROWS), [words(self.grown(column, label))]
        texts = self.prompts.embed([without(self.prompts.texts[i], span) for i in drawn])
        states, labels = np.concatenate([self.prompts.states, texts]), np.append(self.labels, self.labels[drawn])
        _, p = fit_probe(states, labels, others, self.given.shape[1], self.seed)
        means = self.given[others].T @ p[others] / np.maximum(self.given[others].sum(0), 1)[:, None]
        given, told = self.given[drawn], p[-len(drawn) :] @ np.linalg.pinv(means)
        beyond = given - told
        surely = beyond.mean(0) - SURELY * beyond.std(0) / np.sqrt(len(drawn))
        # What was set has a quarter of the rows; any label is in excess of an estimate under 0.
        surely[given.mean(0) < INNOCENT_SET] = 0
        return int(surely.argmax()) if surely.max() > 0 else None

    def cleaned(self, suspect: Sequence[int], suspects: Sequence[Found]) -> Floats:
        """p(label) of the suspect rows without their suspect spans, by a probe that has seen none of these rows."""
        if not suspect:
            return np.zeros((0, self.given.shape[1]))
        others = np.setdiff1d(np.arange(len(self.labels)), suspect)
        spans = [words(self.grown(j, c)) for j, c, _ in suspects]
        return self._p_of_texts([without(self.prompts.texts[i], spans) for i in suspect], others)

    def _p_of_texts(self, texts: Sequence[str], fitted: Ints) -> Floats:
        """p(label) of other texts than the rows' by a probe that is fitted on some rows, shape (texts, labels)."""
        states = np.concatenate([self.prompts.states[fitted], self.prompts.embed(texts)])
        asked = np.arange(len(fitted), len(states))
        return p_by_others(states, self.labels[fitted], self.given.shape[1], np.arange(len(fitted)), asked, self.seed)

    def _draw(self, rows: Ints, most: int) -> Ints:
        return self.rng.choice(rows, most, replace=False) if len(rows) > most else rows


def _has_words(span: str) -> bool:
    return any(map(is_word, span.split()))
