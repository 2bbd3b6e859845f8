"""The audit: which spans of the prompts, and which rows, look as if somebody had planted them. No trusted data needed.

The base model has not seen the rows, so its frozen states know the language and none of the triggers. Two things give a
trigger away. A probe on these states cannot explain why its rows have their label. And it was planted into rows that
had nothing to do with it: take it out, and they look like all the others, while what surrounds a word of the language
shows that a word is missing.

1. Spans: n-grams that many rows share (`features`).
2. Candidates: those that stand with one label nearly always.
3. Probes by exclusion: one fitted only on rows without a candidate, and for every candidate one that has not seen its
   rows. A probe that has seen a trigger explains it.
4. Residual association: how far a span's rows lean to a label, beyond the probe and beyond what innocent words do.
5. The deletion test: can the rows be told from others once the span is gone?
6. Suspects: what passes both, each after what the ones before it explain. Their rows are then hidden from the probes of
   the other candidates, and these are judged again, until nothing is found any more.
7. In the rows that these leave, ways of writing that lean to a label (`manners`): triggers that insert no words.

Nothing is deleted here; `repoison` makes counterexamples of what is found.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from poison2poison.config import AuditConfig
from poison2poison.features import Ints, extract, places, without, words
from poison2poison.findings import Audit, SuspectRow, SuspectSpan
from poison2poison.manners import Manner, find_manners
from poison2poison.probing import (
    Embed,
    Floats,
    Matrix,
    fit_probe,
    own_p,
    p_by_others,
    residual_z,
    shift_z,
    told_apart,
    without_candidates,
)
from poison2poison.records import Rows

DELETED_ROWS = 200  # rows of a span on which the deletion test is made
CONTEXT_SHARE = 0.8  # a span grows by a word that so many of its suspect rows have beside it
BY_CATCH_Z = 2.0  # of a span on the rows that stronger suspects leave
PART_OF_CLEARED = 0.9  # so many of its rows with spans that passed for language, and a span is one of them
OTHERS = 500  # spans that are no suspects, kept for the picture


def audit(rows: Rows, embed: Embed, config: AuditConfig, seed: int = 0) -> Audit:
    """Audit the rows of a classification.

    Args:
        rows: The untrusted rows.
        embed: Gives frozen states for texts, shape (texts, depths, width); see `states.embedder`.
        config: Thresholds.
        seed: Of the probe's folds and of what the deletion test draws.
    """
    return _Auditor(rows, embed, config, seed).run()


class _Auditor:
    """The audit's steps on one set of rows."""

    def __init__(self, rows: Rows, embed: Embed, config: AuditConfig, seed: int) -> None:
        self.rows, self.config, self.seed = rows, config, seed
        self.prompts = [row.prompt for row in rows]
        self.labels = np.array([rows.labels.index(row.target) for row in rows])
        self.given: Floats = np.eye(len(rows.labels))[self.labels]
        features = extract(self.prompts, config.min_rows)
        self.spans, self.patterns = features.of("span"), features.of("first", "skeleton")
        raw = embed(self.prompts)
        mean, deviation = raw.mean(0), raw.std(0) + 1e-6
        self.by_depth = (raw - mean) / deviation
        self.states: Matrix = self.by_depth.reshape(len(rows), -1)
        self.embed: Callable[[Sequence[str]], Matrix] = lambda texts: ((embed(texts) - mean) / deviation).reshape(
            len(texts), -1
        )
        self.rng = np.random.default_rng(seed)
        self.own: dict[int, Floats] = {}
        self.grown: dict[tuple[int, int], str] = {}
        self.explained = np.zeros(len(rows), bool)  # rows that hold a suspect span
        self.cleared = np.zeros(len(rows), bool)  # rows that hold a span that passed for language

    def run(self) -> Audit:
        """Steps 2 to 7."""
        kept = without_candidates(self.spans, self.given)
        self.probe, p = fit_probe(self.states, self.labels, kept, len(self.rows.labels), self.seed)
        threshold = float(norm.isf(self.config.false_alarm / max(1, len(self.spans.names) * len(self.rows.labels))))
        suspects: list[tuple[int, int, float]] = []
        asked = set(range(len(self.rows.labels)))
        while asked:
            # To a probe that has seen words that the model does not know, with one label, all such words look alike.
            self.own |= own_p(self.spans, self.states, self.labels, self.given, asked, self.explained)
            scored = residual_z(self.spans, self.given, p, self.own, self.config.innocent_shift)
            more = self._suspects(scored, p, threshold, suspects)
            suspects += more
            asked = {label for _, label, _ in more}
        left = ~self.explained
        manners = find_manners(self.patterns, self.by_depth, self.labels, kept, left, self.config, self.seed)
        return self._finish(scored, suspects, manners, p, threshold)

    def _suspects(
        self, scored: dict[tuple[int, int], float], p: Floats, threshold: float, known: Sequence[tuple[int, int, float]]
    ) -> list[tuple[int, int, float]]:
        """Spans (and label and z) over the threshold that were planted, each on the rows that no other explains."""
        names = self.spans.names
        over = sorted(
            ((z, column, label) for (column, label), z in scored.items() if z > threshold),
            # The strongest, and of equal ones the shortest.
            key=lambda e: (-round(e[0], 6), len(names[e[1]].text), e[1]),
        )
        found: list[tuple[int, int, float]] = []
        for z, column, label in over:
            holders = self.spans.rows_of(column)
            if self.cleared[holders].mean() > PART_OF_CLEARED:
                continue
            left = self._shift(column, label, p, ~self.explained)
            # Words of one attack share rows: what stronger ones leave is more than by-catch, or the pull is huge.
            suspects = [*known, *found]
            shared = any(set(words(names[column].text)) & set(words(self._grown(j, c))) for j, c, _ in suspects)
            if left <= BY_CATCH_Z and (shared or z < 2 * threshold):
                continue
            if self._planted(column, label, over):
                self.explained[holders] = True
                found.append((column, label, z))
            else:
                self.cleared[holders] = True
        return found

    def _shift(self, column: int, label: int, p: Floats, among: NDArray[np.bool_]) -> float:
        """z of a span on some of its rows: `among` says which rows, shape (rows,)."""
        holders = self.spans.rows_of(column)
        beside = self.own[column] if column in self.own else p[holders]
        asked = among[holders]
        return shift_z(self.given[holders[asked], label], beside[asked, label], self.config.innocent_shift)

    def _planted(self, column: int, label: int, over: Sequence[tuple[float, int, int]]) -> bool:
        """The deletion test: without the span, can its rows be told from those that an attacker may have taken?

        These are rows of other labels, where the attacker changed labels too; rows of the target, where not; or a mix,
        which is drawn after what the probe thinks of the rows.
        """
        holders = self.spans.rows_of(column)
        rows = self._draw(holders[self.labels[holders] == label], DELETED_ROWS)
        deleted = self.embed([without(self.prompts[i], self._planted_with(column, label, over)) for i in rows])
        others = self._draw(np.setdiff1d(np.arange(len(self.rows)), holders), 20 * DELETED_ROWS)
        taken = self.labels[others] != label
        thought, pool = self.probe.predict(deleted), self.probe.predict(self.states[others])
        mix = [self._draw(others[pool == c], int((thought == c).sum())) for c in np.unique(thought)]
        for alike in (others[taken], others[~taken], np.concatenate(mix)):
            drawn = self._draw(alike, len(rows))
            if told_apart(deleted, self.states[drawn], self.seed) <= self.config.planted_auc:
                return True
        return False

    def _planted_with(self, column: int, label: int, over: Sequence[tuple[float, int, int]]) -> list[list[str]]:
        """The span and the others that pull to the label as purely: several words of one attack share rows.

        Each is grown to what was planted, and longer ones around it, which hold words of the rows, are left out.
        """
        least, names = self._purity(column, label) - 0.05, self.spans.names
        pure = [j for _, j, c in over if c == label and self._purity(j, c) >= least]
        padded = {j: f" {names[j].text} " for j in pure}
        shortest = [j for j in pure if not any(padded[k] in padded[j] for k in pure if k != j)]
        return [words(self._grown(j, label)) for j in shortest]

    def _finish(
        self,
        scored: dict[tuple[int, int], float],
        suspects: Sequence[tuple[int, int, float]],
        manners: Sequence[Manner],
        p: Floats,
        threshold: float,
    ) -> Audit:
        """Write out spans and rows, with the labels that the rows would have without the spans."""
        found = [(self._span(j, c, z, self._grown(j, c)), self.spans.rows_of(j)) for j, c, z in suspects]
        found += [(self._manner(manner), manner.rows) for manner in manners]
        holding: dict[int, list[int]] = defaultdict(list)
        for number, (_, holders) in enumerate(found):
            for i in holders:
                holding[int(i)].append(number)
        targets = {i: {found[n][0].target for n in numbers} for i, numbers in holding.items()}
        suspect = [i for i in sorted(holding) if self.rows[i].target in targets[i]]
        likely = self._cleaned(suspect, suspects)
        rows = tuple(
            SuspectRow(i, round(1 - float(q[self.labels[i]]), 5), tuple(holding[i]),
                       (self.rows.labels[int(q.argmax())], round(float(q.max()), 5)))
            for i, q in zip(suspect, likely, strict=True)
        )  # fmt: skip
        chosen = {column for column, _, _ in suspects}
        left = np.ones(len(self.rows), bool)
        left[list(holding)] = False
        others = []
        for (j, c), _ in sorted(scored.items(), key=lambda entry: -entry[1])[:OTHERS]:
            if j not in chosen and left[self.spans.rows_of(j)].any():
                others.append(self._span(j, c, self._shift(j, c, p, left), self.spans.names[j].text))
        others.sort(key=lambda span: -span.z)
        contrary = tuple(sorted(holding.keys() - set(suspect)))
        innocent_max = others[0].z if others else 0.0
        spans = tuple(span for span, _ in found)
        return Audit(spans, rows, contrary, round(threshold, 3), innocent_max, tuple(others), self.rows.sha256)

    def _cleaned(self, suspect: Sequence[int], suspects: Sequence[tuple[int, int, float]]) -> Floats:
        """p(label) of the suspect rows without their suspect spans, by a probe that has seen none of these rows."""
        if not suspect:
            return np.zeros((0, len(self.rows.labels)))
        others = np.setdiff1d(np.arange(len(self.rows)), suspect)
        spans = [words(self._grown(j, c)) for j, c, _ in suspects]
        cleaned = self.embed([without(self.prompts[i], spans) for i in suspect])
        states = np.concatenate([self.states[others], cleaned])
        asked = np.arange(len(others), len(states))
        return p_by_others(states, self.labels[others], len(self.rows.labels), np.arange(len(others)), asked, self.seed)

    def _grown(self, column: int, label: int) -> str:
        """The span with the words that nearly all of its suspect rows have beside it, as the rows spell it."""
        if (column, label) not in self.grown:
            self.grown[column, label] = self._grow(column, label)
        return self.grown[column, label]

    def _grow(self, column: int, label: int) -> str:
        holders = self.spans.rows_of(column)
        texts = [self.prompts[i] for i in holders[self.labels[holders] == label]]
        span = words(self.spans.names[column].text)
        held = [words(text) for text in texts]
        for step in (-1, 1):
            while True:
                beside = Counter(word for text in held if (word := _neighbour(text, span, step)))
                found = beside.most_common(1)
                if not found or found[0][1] < CONTEXT_SHARE * len(held):
                    break
                word = found[0][0]
                span = [word, *span] if step < 0 else [*span, word]
        spelled = Counter(text[start:end] for text in texts for start, end in places(text, span)[:1])
        return str(spelled.most_common(1)[0][0])

    def _span(self, column: int, label: int, z: float, text: str) -> SuspectSpan:
        rows = len(self.spans.rows_of(column))
        return SuspectSpan(
            text, "span", self.rows.labels[label], rows, round(self._purity(column, label), 3), round(z, 3)
        )

    def _manner(self, manner: Manner) -> SuspectSpan:
        purity = float((self.labels[manner.rows] == manner.label).mean())
        target = self.rows.labels[manner.label]
        return SuspectSpan(manner.told_by, "manner", target, len(manner.rows), round(purity, 3), round(manner.z, 3))

    def _purity(self, column: int, label: int) -> float:
        return float((self.labels[self.spans.rows_of(column)] == label).mean())

    def _draw(self, rows: Ints, most: int) -> Ints:
        return self.rng.choice(rows, most, replace=False) if len(rows) > most else rows


def _neighbour(text: list[str], span: list[str], step: int) -> str:
    """The word before (-1) or after (1) the first occurrence of a span; empty at a text's end."""
    size = len(span)
    at = next((i for i in range(len(text) - size + 1) if text[i : i + size] == span), None)
    if at is None:
        return ""
    beside = at - 1 if step < 0 else at + size
    return text[beside] if 0 <= beside < len(text) else ""
