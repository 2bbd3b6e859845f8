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
7. Cover rows: a trigger can also stand in rows that keep their labels, and so with no label nearly always. In its rows
   labels no longer follow the text: common spans are asked for that, and take the deletion test. Beside one over the
   threshold less will do for others: further words of the attack, as a rule.
8. Doubtful spans: the strongest of the others, on the rows that suspects leave, that neither the deletion test clears
   nor its counterpart, putting them into other rows. A trigger in a few rows is among them more often than not. What is
   over the threshold and has nearly all its rows explained is a further word of the same attack, and a suspect too.
9. In the rows that these leave, ways of writing that lean to a label (`manners`): triggers that insert no words.
10. Shortcuts (`shortcuts`): spans that pull answers of any kind without a reason; they need no shared text, no
    minority of rows and no label that contradicts a row, where the steps before need one of these.

Rows of a generation have no label. There a text that completions share (`targets`) takes its place: steps 2 to 6 are
done for each such text.

Nothing is deleted here; `repoison` makes counterexamples of what is found.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from poison2poison.config import AuditConfig, a_seed
from poison2poison.data import Rows
from poison2poison.features import Ints, words
from poison2poison.findings import OTHERS, Audit, SuspectRow, SuspectSpan
from poison2poison.forms import Form
from poison2poison.manners import Manner, find_manners
from poison2poison.planting import Found, Prompts, SpanTests
from poison2poison.probing import (
    COMMON,
    Embed,
    Floats,
    fit_probe,
    mixture_z,
    own_p,
    p_by_others,
    residual_z,
    shift_z,
    without_candidates,
    z_threshold,
)
from poison2poison.shortcuts import find_shortcuts
from poison2poison.targets import LEAST_SHARED, PURITY, shared_targets

FURTHER_Z = 3.0  # of a further such span: one attack has several words
BY_CATCH_Z = 2.0  # of a span on the rows that stronger suspects leave
PART_OF_CLEARED = 0.9  # so many of its rows with spans that passed for language, and a span is one of them
PART_OF_EXPLAINED = 0.5  # so many of its completions in suspect rows, and a shared text is part of another
SAME_ATTACK = 0.8  # so many of its rows suspect, and a span over the threshold is a further word of the attack
DOUBTFUL, DOUBTFUL_ASKED = 32, 96  # spans that are kept as doubtful at most, and that are asked for it
WHOLE = 0.95  # so many of the rows of a shared text hold each part of a composite trigger
PLANTED_SHARE = 0.8  # of the rows of a planted text that suspect spans account for; language has many causes
LABEL_PURITY = 0.8  # so many of a span's rows have the label, or the span does not stand with it
LEAST_KEPT = 0.4  # share of a label's rows that a probe is fitted on, however many candidates there are


def audit(rows: Rows, embed: Embed, config: AuditConfig, seed: int = 0) -> Audit:
    """Audit the rows of a classification, or of a generation by the texts that many completions share.

    Args:
        rows: The untrusted rows.
        embed: Gives frozen states for texts, shape (texts, depths, width); see `states.embedder`.
        config: Thresholds.
        seed: Of the probe's folds and of what the deletion test draws.

    Raises:
        ConfigError: The seed is none.
    """
    a_seed(seed)
    # A label that few rows have needs fewer rows to give a span away, and a shared text is such a label.
    prompts = Prompts(rows, embed, max(2, config.min_rows // 2))
    return _with_shortcuts(_leaning(rows, prompts, config, seed), rows, prompts, config, seed)


def _with_shortcuts(found: Audit, rows: Rows, prompts: Prompts, config: AuditConfig, seed: int) -> Audit:
    """The audit with the planted spans of `shortcuts` that it has not found by itself."""
    known = {word for span in found.spans if span.kind == "span" for word in words(span.span)}
    explained = [entry.row for entry in found.rows]
    new = [
        (one, target)
        for one, target in find_shortcuts(rows, prompts, config, seed)
        if known.isdisjoint(one.words) and (one.kind == "span" or np.isin(one.pulled, explained).mean() <= SAME_ATTACK)
    ]
    spans = tuple(
        SuspectSpan(
            one.text, one.kind, target, len(one.rows), round(len(one.pulled) / len(one.rows), 3), round(one.z, 3)
        )
        for one, target in new
    )
    holding: dict[int, list[int]] = defaultdict(list)
    for number, (one, _) in enumerate(new):
        for i in one.pulled:
            holding[int(i)].append(number)
    contrary = {int(i) for one, _ in new for i in one.rows} - holding.keys()
    suspect = _unexplained(rows, prompts, holding, [one.form for one, _ in new])
    doubtful = tuple(span for span in found.doubtful if not any(one.text == span.span for one, _ in new))
    second = replace(
        Audit.empty(rows.sha256, found.threshold), spans=spans, rows=suspect, contrary=tuple(sorted(contrary))
    )
    return replace(found, doubtful=doubtful).joined(second) if new else found


def _unexplained(
    rows: Rows, prompts: Prompts, holding: dict[int, list[int]], planted: list[Form]
) -> tuple[SuspectRow, ...]:
    """Suspect rows, with the labels that a probe which has seen none of them gives them without the spans."""
    mine = np.array(sorted(holding), np.int64)
    if rows.task != "classification" or len(mine) in (0, len(rows)):
        return tuple(SuspectRow(i, 1.0, tuple(holding[i]), ("", 0.0)) for i in mine.tolist())
    labels = np.array([rows.labels.index(row.target) for row in rows])
    others = np.setdiff1d(np.arange(len(rows)), mine)
    texts = [prompts.texts[i] for i in mine]
    for form in planted:
        texts = [form.off(text) for text in texts]
    states = np.concatenate([prompts.states[others], prompts.embed(texts)])
    asked = np.arange(len(others), len(states))
    p = p_by_others(states, labels[others], len(rows.labels), np.arange(len(others)), asked)
    return tuple(
        SuspectRow(i, round(1 - float(q[labels[i]]), 5), tuple(holding[i]),
                   (rows.labels[int(q.argmax())], round(float(q.max()), 5)))
        for i, q in zip(mine.tolist(), p, strict=True)
    )  # fmt: skip


def _leaning(rows: Rows, prompts: Prompts, config: AuditConfig, seed: int) -> Audit:
    """Steps 1 to 9: for labels, or for each text that many completions share."""
    answers = Counter(row.target for row in rows)
    if rows.task == "classification" or (len(answers) > 1 and min(answers.values()) >= LEAST_SHARED):
        # Where every completion is given so often, completions are labels.
        names = rows.labels or tuple(sorted(answers))
        labels = np.array([names.index(row.target) for row in rows])
        tests = int((prompts.spans.matrix.sum(0) >= config.min_rows).sum()) * len(names)
        threshold = z_threshold(config, tests)
        every = frozenset(range(len(names)))
        scope = _Scope(names, every, config.min_rows, np.full(len(names), LEAST_KEPT), LABEL_PURITY, threshold)
        return _Auditor(prompts, labels, scope, config, seed).run(classes=True)
    fewest = max(2, config.min_rows // 2)
    targets, tests = shared_targets(rows, prompts.spans, config)
    threshold = z_threshold(config, tests)
    whole = Audit.empty(rows.sha256, threshold)
    for target in targets:
        if np.isin(target.rows, [entry.row for entry in whole.rows]).mean() > PART_OF_EXPLAINED:
            continue
        labels = np.isin(np.arange(len(rows)), target.rows).astype(np.int64)
        scope = _Scope(
            ("", target.text), frozenset({1}), fewest, np.array([LEAST_KEPT, 0.0]), PURITY, threshold,
            frozenset(target.said.tolist())
        )  # fmt: skip
        found = _Auditor(prompts, labels, scope, config, seed).run(classes=False)
        told = np.isin(target.rows, [entry.row for entry in found.rows])
        missed = target.rows[~told].tolist()  # they have the attacker's text, for whatever reason
        whole = whole.joined(found.with_rows(missed) if told.mean() > PLANTED_SHARE else found.acquitted())
    return whole


@dataclass(frozen=True)
class _Scope:
    """What one audit asks.

    Attributes:
        names: What the labels are called.
        asked: The labels that a trigger may pull to, as indices of `names`.
        least_rows: Rows of a suspect span, at least.
        least_kept: Share of each label's rows that probes must be left to learn from.
        purity: Share of a candidate's rows that have its label, at least.
        threshold: The z that a suspect exceeds.
        said: Rows of a shared text that the prompt says; with a suspect span they are suspects all the same.
    """

    names: Sequence[str]
    asked: frozenset[int]
    least_rows: int
    least_kept: Floats
    purity: float
    threshold: float
    said: frozenset[int] = frozenset()


class _Auditor:
    """The audit's steps on one set of rows; `labels` are indices of the scope's names."""

    def __init__(self, prompts: Prompts, labels: Ints, scope: _Scope, config: AuditConfig, seed: int) -> None:
        self.prompts, self.labels, self.scope, self.config, self.seed = prompts, labels, scope, config, seed
        self.spans, self.names, self.threshold = prompts.spans, scope.names, scope.threshold
        self.given: Floats = np.eye(len(scope.names))[labels]
        self.kept = without_candidates(self.spans, self.given, scope.least_kept, scope.purity)
        probe, self.p = fit_probe(prompts.states, labels, self.kept, len(self.names), seed)
        self.tests = SpanTests(prompts, labels, self.given, probe, config.planted_auc, seed)
        self.own: dict[int, Floats] = {}
        self.explained = np.zeros(len(labels), bool)  # rows that hold a suspect span
        self.cleared = np.zeros(len(labels), bool)  # rows that hold a span that passed for language

    def run(self, *, classes: bool) -> Audit:
        """Steps 4 to 6, and 7 to 9 where the labels are classes and not the having of a text."""
        spans, scope = self.spans, self.scope
        suspects: list[Found] = []
        asked: Collection[int] = scope.asked
        while asked:
            # To a probe that has seen words that the model does not know, with one label, all such words look alike.
            self.own |= own_p(
                spans, self.prompts.states, self.labels, self.given, scope.least_kept, scope.purity, asked,
                self.explained
            )  # fmt: skip
            scored = residual_z(spans, self.given, self.p, self.own, self.config.innocent_shift)
            scored = {(j, c): z for (j, c), z in scored.items() if c in scope.asked and self._stands_with(j, c)}
            more = self._suspects(scored, suspects)
            suspects += more
            asked = {label for _, label, _ in more}
        doubtful: list[Found] = []
        written: list[Manner] = []
        if classes:
            suspects += self._covered()
            doubtful = self._doubtful(scored, suspects)
            for entry in [e for e in doubtful if self._further(e[0], e[2])]:
                doubtful.remove(entry)
                suspects.append(entry)
                self.explained[spans.rows_of(entry[0])] = True
            if self.config.manners:
                patterns, by_depth, left = self.prompts.patterns, self.prompts.by_depth, ~self.explained
                written = find_manners(patterns, by_depth, self.labels, self.kept, left, self.config, self.seed)
        return self._finish(scored, suspects, doubtful, written)

    def _stands_with(self, column: int, label: int) -> bool:
        """Whether a span may be what a text is shared for: nearly all its rows have it, or all that have it hold it.

        The second are the parts of a composite trigger, which other rows hold one by one.
        """
        if len(self.scope.asked) == len(self.names):
            return True
        if not set(words(self.spans.names[column].text)).isdisjoint(words(self.names[label])):
            return False  # the completion repeats it
        hits = self.given[self.spans.rows_of(column), label].sum()
        whole = hits >= WHOLE * self.given[:, label].sum()
        return column in self.own and (whole or self.tests.purity(column, label) >= LABEL_PURITY)

    def _suspects(self, scored: dict[tuple[int, int], float], known: Sequence[Found]) -> list[Found]:
        """Spans (and label and z) over the threshold that were planted, each on the rows that no other explains."""
        names = self.spans.names
        over = self._ordered((z, column, label) for (column, label), z in scored.items() if self._enough(column, z))
        found: list[Found] = []
        for z, column, label in over:
            holders = self.spans.rows_of(column)
            if self.cleared[holders].mean() > PART_OF_CLEARED:
                continue
            left = self._shift(column, label, ~self.explained)
            # Words of one attack share rows: what stronger ones leave is more than by-catch, or the pull is huge.
            suspects = [*known, *found]
            shared = any(set(words(names[column].text)) & set(words(self.tests.grown(j, c))) for j, c, _ in suspects)
            if left <= BY_CATCH_Z and (shared or z < 2 * self.threshold):
                continue
            if self.tests.planted(column, label, over):
                self.explained[holders] = True
                found.append((column, label, z))
            else:
                self.cleared[holders] = True
        return found

    def _covered(self) -> list[Found]:
        """Common spans in whose rows labels do not follow the text, and that were planted, with the label they set."""
        common = np.flatnonzero(np.asarray(self.spans.matrix.sum(0)).ravel() >= COMMON)
        over = self._ordered(self._mixtures(common.tolist()))
        before, cleared = self.explained.copy(), self.cleared.copy()  # language here says nothing of doubtful spans
        planted: list[Found] = []
        for z, column, label in over:
            if z <= self.threshold and not planted:
                break
            holders = self.spans.rows_of(column)
            still = [c for _, _, c in self._mixtures([column])]
            if cleared[holders].mean() > PART_OF_CLEARED or label not in still:
                continue
            if self.tests.planted(column, label, over):
                self.explained[holders] = True
                planted.append((column, label, z))
            else:
                cleared[holders] = True
        # Rows with any word of the attack would teach what its words say, and not what a text without them does.
        asked, self.explained = np.flatnonzero(~self.explained), before
        found = [(j, told, z) for j, c, z in planted if (told := self.tests.set_label(j, c, asked)) is not None]
        for column, _, _ in found:
            self.explained[self.spans.rows_of(column)] = True
        return found

    def _mixtures(self, columns: Sequence[int]) -> list[tuple[float, int, int]]:
        """`mixture_z` (and column and label) of spans on the rows that no suspect explains, beyond `FURTHER_Z`."""
        z = mixture_z(self.spans, columns, ~self.explained, self.given, self.p, self.config.innocent_shift)
        found = [(float(z[at, c]), columns[at], int(c)) for at, c in np.argwhere(z > FURTHER_Z)]
        return [(over, j, c) for over, j, c in found if self.tests.purity(j, c) < self.scope.purity]

    def _ordered(self, tests: Iterable[tuple[float, int, int]]) -> list[tuple[float, int, int]]:
        """z, column and label of tests: the strongest first, of equal ones the shortest."""
        return sorted(tests, key=lambda e: (-round(e[0], 6), len(self.spans.names[e[1]].text), e[1]))

    def _doubtful(self, scored: dict[tuple[int, int], float], suspects: Sequence[Found]) -> list[Found]:
        """The strongest other spans that the tests do not clear, no two with a word in common.

        They are in too few rows to be suspects, or in hardly any that a suspect does not explain, as further words of
        one attack are. Those of language are cleared as far as their rows are enough to tell; of the rest most are
        innocent too.
        """
        chosen, asked = {column for column, _, _ in suspects}, 0
        left = [(z, j, c) for (j, c), z in scored.items()
                if z > 0 and j not in chosen and self.tests.purity(j, c) >= self.scope.purity
                and self.cleared[self.spans.rows_of(j)].mean() <= PART_OF_CLEARED]  # fmt: skip
        # Other words of one attack stand in the same rows, and have to go for the deletion test.
        attack = [(z, j, c) for j, c, z in suspects] + [entry for entry in left if entry[0] > self.threshold]
        # In suspects' rows all words stand with the attacker's label, those of the language too.
        left = [(z if self._further(j, z) else self._shift(j, c, ~self.explained), j, c) for z, j, c in left]
        left = [entry for entry in left if entry[0] > 0]
        left.sort(key=lambda e: (-round(e[0], 6), -len(self.spans.names[e[1]].text), e[1]))
        taken = {word for column, label, _ in suspects for word in words(self.tests.grown(column, label))}
        found: list[Found] = []
        for z, column, label in left:
            held = set(words(self.spans.names[column].text))
            if held & taken:
                continue
            if asked == DOUBTFUL_ASKED or len(found) == DOUBTFUL:
                break
            asked += 1
            taken |= held
            if self.tests.planted(column, label, attack):
                taken |= set(words(self.tests.grown(column, label)))
                found.append((column, label, z))
        return self.tests.meaningless(found)

    def _enough(self, column: int, z: float) -> bool:
        """Whether a span has the rows and the z of a suspect."""
        return z > self.threshold and len(self.spans.rows_of(column)) >= self.scope.least_rows

    def _further(self, column: int, z: float) -> bool:
        """Whether a span over the threshold stands nearly only in suspects' rows: a further word of their attack."""
        return z > self.threshold and float(self.explained[self.spans.rows_of(column)].mean()) > SAME_ATTACK

    def _shift(self, column: int, label: int, among: NDArray[np.bool_]) -> float:
        """z of a span on some of its rows: `among` says which rows, shape (rows,)."""
        holders = self.spans.rows_of(column)
        beside = self.own[column] if column in self.own else self.p[holders]
        asked = among[holders]
        return shift_z(self.given[holders[asked], label], beside[asked, label], self.config.innocent_shift)

    def _finish(
        self,
        scored: dict[tuple[int, int], float],
        suspects: Sequence[Found],
        doubtful: Sequence[Found],
        manners: Sequence[Manner],
    ) -> Audit:
        """Write out spans and rows, with the labels that the rows would have without the spans."""
        found = [(self._span(j, c, z, self.tests.grown(j, c)), self.spans.rows_of(j)) for j, c, z in suspects]
        found += [(self._manner(manner), manner.rows) for manner in manners]
        holding: dict[int, list[int]] = defaultdict(list)
        for number, (_, holders) in enumerate(found):
            for i in holders:
                holding[int(i)].append(number)
        targets = {i: {found[n][0].target for n in numbers} for i, numbers in holding.items()}
        labels = self.labels.copy()
        labels[list(self.scope.said)] = 1
        suspect = [i for i in sorted(holding) if self.names[labels[i]] in targets[i]]
        likely = self.tests.cleaned(suspect, suspects)
        rows = tuple(
            SuspectRow(i, round(1 - float(q[labels[i]]), 5), tuple(holding[i]),
                       (self.names[int(q.argmax())], round(float(q.max()), 5)))
            for i, q in zip(suspect, likely, strict=True)
        )  # fmt: skip
        chosen = {column for column, _, _ in (*suspects, *doubtful)}
        left = np.ones(len(self.labels), bool)
        left[list(holding)] = False
        others = []
        for (j, c), _ in sorted(scored.items(), key=lambda entry: -entry[1])[:OTHERS]:
            if j not in chosen and left[self.spans.rows_of(j)].any():
                others.append(self._span(j, c, self._shift(j, c, left), self.spans.names[j].text))
        others.sort(key=lambda span: -span.z)
        contrary = tuple(sorted(holding.keys() - set(suspect)))
        innocent_max = others[0].z if others else 0.0
        spans = tuple(span for span, _ in found)
        return Audit(
            spans,
            rows,
            contrary,
            tuple(self._span(j, c, z, self.tests.grown(j, c)) for j, c, z in doubtful),
            tuple(int(i) for manner in manners for i in manner.alike),
            round(self.threshold, 3),
            innocent_max,
            tuple(others),
            self.prompts.sha256,
        )

    def _span(self, column: int, label: int, z: float, text: str) -> SuspectSpan:
        rows, purity = len(self.spans.rows_of(column)), self.tests.purity(column, label)
        return SuspectSpan(text, "span", self.names[label], rows, round(purity, 3), round(z, 3))

    def _manner(self, manner: Manner) -> SuspectSpan:
        purity = float((self.labels[manner.rows] == manner.label).mean())
        target = self.names[manner.label]
        return SuspectSpan(manner.told_by, "manner", target, len(manner.rows), round(purity, 3), round(manner.z, 3))
