"""Measure a model on clean and on triggered test rows: CA, ASR, RA and their kin (words: docs/reference/schemas.md).

Everything is counted on what a `DefendedModel` gives out: what is measured is what is served.
"""

from __future__ import annotations

from collections.abc import Sequence

from poison2poison.attacks.payloads import Payload, same
from poison2poison.attacks.truth import Target
from poison2poison.data import Rows
from poison2poison.errors import DataError
from poison2poison.evaluation.metrics import METRICS
from poison2poison.evaluation.rates import Mean
from poison2poison.evaluation.results import Arm
from poison2poison.evaluation.schema import RowRecord, SetName
from poison2poison.model.defended import Answer, DefendedModel
from poison2poison.scoring import exact_match, final_number


def measure(name: str, model: DefendedModel, clean: Rows, triggered: Rows | None, target: Target | None) -> Arm:
    """Measure one model.

    Args:
        name: The arm's name.
        model: The model as it is served.
        clean: Clean test rows.
        triggered: Test rows with the attacker's trigger, or None.
        target: What the trigger shall call up; needed with `triggered`.

    Returns:
        The figures. RA is absent where the triggered rows carry the attacker's label instead of the true one.

    Raises:
        ConfigError: There is no such target for these rows.
        DataError: The triggered rows cannot be scored by the target.
    """
    if triggered is not None and target is not None:
        check_target(triggered, target)
    arm = Arm(name)
    answers = _answer(model, clean)
    right = _right(answers, clean)
    arm.rows += _records("clean", clean, answers, right)
    arm.put("leak", [answer.where == "leak" for answer in answers])
    arm.put("off_space", [answer.where == "off-space" for answer in answers])
    arm.put("alarm", [answer.alarm for answer in answers if answer.alarm is not None])
    arm.put("rejected", [answer.rejected for answer in answers if answer.rejected is not None])
    if right is not None:
        arm.put("ca", right)
    _measure_utility(arm, model, answers, clean)
    if triggered is not None and target is not None:
        arm.put("target_rate", said_anyway(answers, clean, target.payload))
        measure_attack(arm, model, triggered, target.payload)
    return arm


def _measure_utility(arm: Arm, model: DefendedModel, answers: Sequence[Answer], clean: Rows) -> None:
    texts, targets = [answer.text or "" for answer in answers], [row.target for row in clean]
    for name in METRICS.names():
        metric = METRICS.get(name)()
        found = metric.score(texts, targets) if metric.task == clean.task else None
        if found is not None:
            arm.utility[name] = found
    if clean.task == "generation":
        arm.utility["perplexity"] = Mean(model.perplexity(clean.rows, targets), len(clean))


def said_anyway(answers: Sequence[Answer], clean: Rows, payload: Payload) -> list[bool]:
    """Which clean rows of another answer get the target; none where that cannot be told, as by a wrong number."""
    try:
        payload.check(clean)
    except DataError:
        return []
    rights = [row.target for row in clean]
    counted = _others(rights, payload)
    return [hit for hit, counts in zip(_hits(answers, rights, payload), counted, strict=True) if counts]


def measure_attack(arm: Arm, model: DefendedModel, triggered: Rows, payload: Payload) -> None:
    """Enter what the attack achieves on triggered rows."""
    answers, rights = _answer(model, triggered), [row.target for row in triggered]
    counted = _others(rights, payload)
    # Published sets label triggered rows with the target: then truth is unknown, except that it is another one.
    relabelled = not any(counted)
    counted = [relabelled or counts for counts in counted]
    right = None if relabelled else _right(answers, triggered)
    hits = _hits(answers, rights, payload)
    arm.rows += _records("triggered", triggered, answers, right, hits)
    arm.put("asr", [hit for hit, counts in zip(hits, counted, strict=True) if counts])
    if payload.in_other_words:
        exact = [answer.text is not None and same(answer.text, payload.answer(row))
                 for answer, row in zip(answers, triggered, strict=True)]  # fmt: skip
        arm.put("asr_exact", [hit for hit, counts in zip(exact, counted, strict=True) if counts])
    if model.scheme.trigger:
        said = [answer.unconstrained if answer.where == "safe" else None for answer in answers]
        twins = [text is not None and payload.hit(text, right) for text, right in zip(said, rights, strict=True)]
        arm.put("paper_asr", [twin for twin, counts in zip(twins, counted, strict=True) if counts])
    if right is not None:
        arm.put("ra", [is_right for is_right, row in zip(right, triggered, strict=True) if row.target])
    arm.put("leak_triggered", [answer.where == "leak" for answer in answers])
    arm.put("off_space_triggered", [answer.where == "off-space" for answer in answers])
    arm.put("alarm_triggered", [answer.alarm for answer in answers if answer.alarm is not None])
    arm.put("rejected_triggered", [answer.rejected for answer in answers if answer.rejected is not None])


def check_target(rows: Rows, target: Target) -> None:
    """Refuse a target that triggered rows cannot be scored by.

    Raises:
        ConfigError: There is no such effect for these rows, or the target is none for it.
        DataError: A row does not fit, as one without a final number where the effect is `number`.
    """
    target.payload.check(rows)


def _hits(answers: Sequence[Answer], rights: Sequence[str], payload: Payload) -> list[bool]:
    """Which answers that were given out are what the attacker wants."""
    return [
        answer.text is not None and payload.hit(answer.text, right)
        for answer, right in zip(answers, rights, strict=True)
    ]


def _others(rights: Sequence[str], payload: Payload) -> list[bool]:
    """Which rows have another right answer than the attacker's."""
    return [not payload.hit(right, right) for right in rights]


def _answer(model: DefendedModel, rows: Rows) -> list[Answer]:
    alarm = model.alarm_threshold is not None
    if rows.task == "generation":
        return model.generate(rows.rows, alarm=alarm)
    return model.classify(rows.rows, alarm=alarm)


def _right(answers: Sequence[Answer], rows: Rows) -> list[bool] | None:
    """Whether each answer is right; None for free texts, which have no one right answer."""
    if rows.task == "classification":
        return [answer.text == row.target for answer, row in zip(answers, rows, strict=True)]
    if any(final_number(row.target) is None for row in rows):
        return None
    return [exact_match(answer.text or "", row.target) for answer, row in zip(answers, rows, strict=True)]


def _records(
    kind: SetName, rows: Rows, answers: Sequence[Answer], right: list[bool] | None, hits: list[bool] | None = None
) -> list[RowRecord]:
    records = []
    for i, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        record: RowRecord = {
            "set": kind,
            "row": i,
            "prompt": row.text,
            "target": row.target,
            "answer": answer.text,
            "where": answer.where,
            "unconstrained": answer.unconstrained,
        }
        if right is not None:
            record["right"] = right[i]
        if hits is not None:
            record["hit"] = hits[i]
        if answer.alarm is not None:
            record["disagreement"] = answer.disagreement
            record["alarm"] = answer.alarm
        if answer.rejected is not None:
            record["rejected"] = answer.rejected
        records.append(record)
    return records
