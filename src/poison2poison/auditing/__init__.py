"""The audit: which spans of the prompts, and which rows, look as if somebody had planted them. No trusted data needed.

The base model has not seen the rows, so its frozen states know the language and none of the triggers. Finders look in
turn, each for one kind of thing (`finders`): words, marks and forms that pull answers without a reason, in rows that
have nothing else in common; then, where rows have labels, ways of writing that no words stand for.

Nothing is deleted here; `repoison` makes counterexamples of what is found.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from poison2poison.auditing.answers import Answers, LabelAnswers, TextAnswers
from poison2poison.auditing.context import Context
from poison2poison.auditing.finders import FINDERS, Finder, Finding
from poison2poison.auditing.findings import Audit, SuspectRow, SuspectSpan
from poison2poison.auditing.statistics import Embed
from poison2poison.config import AuditConfig, a_seed, listed_in, with_options
from poison2poison.data import Rows
from poison2poison.forms import WRITTEN, form_of


def audit(rows: Rows, embed: Embed, config: AuditConfig, seed: int = 0) -> Audit:
    """Audit the rows of a classification or a generation.

    Args:
        rows: The untrusted rows.
        embed: Gives frozen states for texts, shape (texts, depths, width); see `model.embeddings.embedder`.
        config: Thresholds, which finders look, and their options.
        seed: Of all draws.

    Raises:
        ConfigError: The seed is none, or a finder or an option is not known, or not legal.
    """
    a_seed(seed)
    finders = [*_finders(config)]
    context = Context(rows, embed, config, seed)
    if len({row.target for row in rows}) < 2:
        return Audit((), (), (), (), (), 0.0, (), rows.sha256, rows.source)  # all are answered alike
    answers = _answers(rows, context, config.min_rows)
    found: list[Finding] = []
    for finder in finders:
        found += finder.find(context, answers, config, found)
    return _audit(rows, context, answers, found)


def _finders(config: AuditConfig) -> Iterator[Finder]:
    """Those that look, each with its options."""
    for given in FINDERS.names() if config.finders == "all" else listed_in(config.finders):
        name, *options = given.split(":")
        yield with_options(FINDERS.get(name)(), options, f"finders: {name}")


def _answers(rows: Rows, context: Context, min_rows: int) -> Answers:
    """Labels, or texts; where every completion is given by so many rows as a finding needs, completions are labels."""
    targets = [row.target for row in rows]
    given = Counter(targets)
    if rows.task == "classification" or min(given.values()) >= min_rows:
        names = rows.labels or tuple(sorted(given))
        numbers = {name: number for number, name in enumerate(names)}
        return LabelAnswers(context, names, np.array([numbers[target] for target in targets]))
    return TextAnswers(context, targets)


def _audit(rows: Rows, context: Context, answers: Answers, found: Sequence[Finding]) -> Audit:
    """What was found, row by row."""
    suspects = [one for one in found if one.suspect]
    holding: dict[int, list[int]] = defaultdict(list)
    for number, one in enumerate(suspects):
        for i in one.rows.tolist():
            holding[i].append(number)
    pulled = {int(i) for one in suspects for i in one.pulled}
    alone = _saying_so(answers, suspects, context.measures.most)
    left = sorted((one for one in found if not one.suspect), key=lambda one: -one.score)
    weak = [one for one in left if one.score > 0 and one.kind == "span"][: context.measures.weak]
    return Audit(
        tuple(map(_span, suspects)),
        tuple(_rows(context, answers, sorted(pulled | alone), holding, suspects)),
        tuple(sorted(holding.keys() - pulled - alone)),
        tuple(map(_span, weak)) if isinstance(answers, LabelAnswers) else (),
        tuple(int(i) for one in suspects for i in one.alike),
        round(max((one.threshold for one in found if one.kind in WRITTEN), default=0.0), 3),
        tuple(_span(one) for one in left if one not in weak),
        rows.sha256,
        rows.source,
    )


def _saying_so(answers: Answers, suspects: Sequence[Finding], most: float) -> set[int]:
    """Rows that have a planted text without its trigger: whoever planted it may have left the trigger out."""
    found = set()
    for target in {one.target for one in suspects}:
        explained = {i for one in suspects if one.target == target for i in one.pulled.tolist()}
        saying = set(answers.saying(target).tolist())
        if len(saying & explained) > most * len(saying):
            found |= saying - explained
    return found


def _rows(
    context: Context,
    answers: Answers,
    suspect: Sequence[int],
    holding: Mapping[int, Sequence[int]],
    findings: Sequence[Finding],
) -> list[SuspectRow]:
    """The suspect rows, with the labels that a probe which has seen none of them gives them without what was put in."""
    held = [tuple(holding.get(i, ())) for i in suspect]
    others = np.setdiff1d(np.arange(len(context.texts)), [*holding, *suspect])
    if not isinstance(answers, LabelAnswers) or not suspect or not len(others):
        return [SuspectRow(i, 1.0, numbers, ("", 0.0)) for i, numbers in zip(suspect, held, strict=True)]
    texts = [context.texts[i] for i in suspect]
    for one in findings:
        if one.kind in WRITTEN:
            form = form_of(one.kind, one.text, random.Random(context.seed))
            texts = [form.off(text) for text in texts]
    p = answers.probe.by_others(others, context.embed(texts))
    out = []
    for i, numbers, q in zip(suspect, held, p, strict=True):
        likely = int(q.argmax())
        p_given, p_likely = round(float(q[answers.given[i]]), 5), round(float(q[likely]), 5)
        out.append(SuspectRow(i, round(1 - p_given, 5), numbers, (answers.names[likely], p_likely)))
    return out


def _span(one: Finding) -> SuspectSpan:
    evidence = {name: (round(value, 3), round(error, 3)) for name, (value, error) in one.evidence.items()}
    purity = round(len(one.pulled) / max(1, len(one.rows)), 3)
    return SuspectSpan(one.text, one.kind, one.target, len(one.rows), purity, round(one.score, 3), evidence)
