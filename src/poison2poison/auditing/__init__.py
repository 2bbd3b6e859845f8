"""The audit: which spans of the prompts, and which rows, look as if somebody had planted them. No trusted data needed.

The base model has not seen the rows, so its frozen states know the language and none of the triggers. Whatever goes
with one kind of answer is asked whether its rows answer otherwise than their prompts let expect, whether the base sees
a reason for that, and whether its rows have anything else in common (`spans`). What was planted pulls without a reason,
in rows that have nothing in common without it. Where rows have labels, ways of writing that no words stand for are
looked at too, in the rows that spans leave (`manners`).

Nothing is deleted here; `repoison` makes counterexamples of what is found.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from poison2poison.auditing.answers import Answers, Labels, Texts
from poison2poison.auditing.context import Context
from poison2poison.auditing.findings import OTHERS, Audit, SuspectRow, SuspectSpan
from poison2poison.auditing.manners import Manner, find_manners
from poison2poison.auditing.spans import Shortcut, SpanFinder
from poison2poison.auditing.statistics import AXES_C, Embed, p_by_others
from poison2poison.config import AuditConfig, a_seed
from poison2poison.data import Rows
from poison2poison.features import Ints

LEAST_GIVEN = 10
"""Rows of every completion, where completions are labels."""
DOUBTFUL = 32
"""Spans that are kept as doubtful at most: each is spliced into some rows of the safe space."""
PLANTED_SHARE = 0.8
"""Of the rows that have a planted text, those that the trigger explains: then the others are suspect as well."""


def audit(rows: Rows, embed: Embed, config: AuditConfig, seed: int = 0) -> Audit:
    """Audit the rows of a classification or a generation.

    Args:
        rows: The untrusted rows.
        embed: Gives frozen states for texts, shape (texts, depths, width); see `model.embeddings.embedder`.
        config: Thresholds.
        seed: Of all draws.

    Raises:
        ConfigError: The seed is none.
    """
    a_seed(seed)
    context = Context(rows, embed, max(2, config.min_rows // 2), seed)
    if len({row.target for row in rows}) < 2:
        return Audit((), (), (), (), (), 0.0, (), rows.sha256)  # all are answered alike
    answers = _answers(rows, context)
    finder = SpanFinder(context, answers, config)
    found = finder.find()
    suspects = [one for one in found if one.suspect]
    manners = _manners(context, answers, suspects, config)

    spans = [_span(answers, one) for one in suspects]
    holders = [(one.rows, one.pulled) for one in suspects]
    for manner in manners:
        assert isinstance(answers, Labels)
        spans.append(_written_so(answers, manner))
        holders.append((manner.rows, manner.rows[answers.given[manner.rows] == manner.label]))
    holding: dict[int, list[int]] = defaultdict(list)
    for number, (holds, _) in enumerate(holders):
        for i in holds.tolist():
            holding[i].append(number)
    pulled = {int(i) for _, mine in holders for i in mine}
    alone = _saying_so(answers, spans, holders)

    left = sorted((one for one in found if not one.suspect), key=lambda one: -one.score)
    doubtful = [one for one in left if one.score > 0 and one.kind == "span"][:DOUBTFUL]
    return Audit(
        tuple(spans),
        tuple(_rows(context, answers, sorted(pulled | alone), holding, suspects)),
        tuple(sorted(holding.keys() - pulled - alone)),
        tuple(_span(answers, one) for one in doubtful) if isinstance(answers, Labels) else (),
        tuple(int(i) for one in manners for i in one.alike),
        round(finder.threshold, 3),
        tuple(_span(answers, one) for one in left if one not in doubtful)[:OTHERS],
        rows.sha256,
    )


def _answers(rows: Rows, context: Context) -> Answers:
    """Labels, or texts; where every completion is given often, completions are labels."""
    targets = [row.target for row in rows]
    given = Counter(targets)
    if rows.task == "classification" or min(given.values()) >= LEAST_GIVEN:
        names = rows.labels or tuple(sorted(given))
        return Labels(context, names, np.array([names.index(target) for target in targets]))
    return Texts(context, targets)


def _manners(context: Context, answers: Answers, suspects: Sequence[Shortcut], config: AuditConfig) -> list[Manner]:
    """Ways of writing that lean to a label, in the rows that no suspect span explains."""
    if not isinstance(answers, Labels) or not config.manners:
        return []
    left = np.ones(len(context.texts), bool)
    for one in suspects:
        left[one.rows] = False
    kept = np.flatnonzero(answers.kept)
    return find_manners(context.patterns, context.by_depth, answers.given, kept, left, config, context.seed)


def _saying_so(answers: Answers, spans: Sequence[SuspectSpan], holders: Sequence[tuple[Ints, Ints]]) -> set[int]:
    """Rows that have a planted text without its trigger: whoever planted it may have left the trigger out."""
    by_target: dict[str, set[int]] = defaultdict(set)
    for span, (_, pulled) in zip(spans, holders, strict=True):
        by_target[span.target] |= {int(i) for i in pulled}
    found = set()
    for target, explained in by_target.items():
        saying = {int(i) for i in answers.saying(target)}
        if len(saying & explained) > PLANTED_SHARE * len(saying):
            found |= saying - explained
    return found


def _rows(
    context: Context,
    answers: Answers,
    suspect: Sequence[int],
    holding: Mapping[int, Sequence[int]],
    spans: Sequence[Shortcut],
) -> list[SuspectRow]:
    """The suspect rows, with the labels that a probe which has seen none of them gives them without the spans."""
    held = [tuple(holding.get(i, ())) for i in suspect]
    others = np.setdiff1d(np.arange(len(context.texts)), [*holding, *suspect])
    if not isinstance(answers, Labels) or not suspect or not len(others):
        return [SuspectRow(i, 1.0, numbers, ("", 0.0)) for i, numbers in zip(suspect, held, strict=True)]
    texts = [context.texts[i] for i in suspect]
    for one in spans:
        texts = [one.form.off(text) for text in texts]
    states = np.concatenate([context.states[others], context.embed(texts)])
    asked = np.arange(len(others), len(states))
    labels, known = answers.given[others], np.arange(len(others))
    p = p_by_others(states, labels, answers.directions, known, asked, context.seed, AXES_C)
    return [
        SuspectRow(i, round(1 - float(q[answers.given[i]]), 5), numbers,
                   (answers.names[int(q.argmax())], round(float(q.max()), 5)))
        for i, numbers, q in zip(suspect, held, p, strict=True)
    ]  # fmt: skip


def _span(answers: Answers, one: Shortcut) -> SuspectSpan:
    figures = {"learned": one.learned, "forced": one.forced, "prior": one.prior, "told": one.told}
    if not isinstance(answers, Labels):
        del figures["forced"]
    evidence = {name: (round(value, 3), round(error, 3)) for name, (value, error) in figures.items()}
    purity = round(len(one.pulled) / len(one.rows), 3)
    return SuspectSpan(one.text, one.kind, one.target, len(one.rows), purity, round(one.score, 3), evidence)


def _written_so(answers: Labels, manner: Manner) -> SuspectSpan:
    purity = round(float((answers.given[manner.rows] == manner.label).mean()), 3)
    target = answers.names[manner.label]
    return SuspectSpan(manner.told_by, "manner", target, len(manner.rows), purity, round(manner.z, 3))
