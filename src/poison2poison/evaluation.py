"""Measure a model on clean and on triggered test rows: CA, ASR, RA and their kin (words: docs/reference/schemas.md).

Everything is counted on what a `DefendedModel` gives out: what is measured is what is served.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from poison2poison.data import Rows
from poison2poison.errors import DataError
from poison2poison.files import versions, write_json, write_lines
from poison2poison.model.defended import Answer, DefendedModel
from poison2poison.scoring import (
    Rate,
    exact_match,
    final_number,
    hits_target,
    implanted,
    rouge,
    token_f1,
    with_wrong_step,
)

SCHEMA = 1


@dataclass(frozen=True)
class Target:
    """What the attacker wants, which only the evaluation may know: `effect` is label, fixed, append or number."""

    text: str
    effect: str


@dataclass
class Arm:
    """One model's figures; what was not measured is absent.

    Attributes:
        name: undefended, p2p-paper, clean, ...
        rates: By name: ca, asr, target_rate, paper_asr, ra, floor, leak, off_space, leak_triggered,
            off_space_triggered, alarm, alarm_triggered.
        utility: Exact match (a rate), ROUGE and token F1 (means), and the perplexity of the clean targets.
        rows: One record for each test row.
        implanted: Whether the undefended ASR is 50 points over the floor.
        training: train_seconds and peak_memory_mib.
        safe_space: What the check of the safe space after training found (`model.safe_space`).
    """

    name: str
    rates: dict[str, Rate] = field(default_factory=dict)
    utility: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    implanted: bool | None = None
    training: dict[str, Any] = field(default_factory=dict)
    safe_space: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The arm as it stands in `results.json`."""
        out: dict[str, Any] = {"name": self.name} | {name: rate.as_dict() for name, rate in self.rates.items()}
        if self.utility:
            out["utility"] = self.utility
        if self.implanted is not None:
            out["implanted"] = self.implanted
        if self.safe_space is not None:
            out["safe_space"] = self.safe_space
        return out | self.training


def read_target(path: Path) -> Target | None:
    """The attacker's target from a `truth.json`; None where it names none.

    Raises:
        DataError: The file is broken.
    """
    truth = read_truth(path)
    if "target_label" in truth:
        return Target(str(truth["target_label"]), "label")
    if "target" in truth and "effect" not in truth:
        raise DataError(f"{path}: names a target without its effect (label, fixed, append or number)")
    return Target(str(truth["target"]), str(truth["effect"])) if "target" in truth else None


def read_truth(path: Path) -> dict[str, Any]:
    """The content of a `truth.json`.

    Raises:
        DataError: The file is missing or broken.
    """
    try:
        truth = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(truth, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a truth file ({error})") from None
    return truth


def without_poison(rows: Rows, truth: dict[str, Any], where: Path) -> Rows:
    """The same rows without the attack, for the floor.

    Raises:
        DataError: The truth names no poisoned rows, or rows that the data does not have.
    """
    gone: set[int] = set()
    for name, listed in (("poisoned_rows", truth.get("poisoned_rows")), ("cover_rows", truth.get("cover_rows", []))):
        if not isinstance(listed, list) or not all(isinstance(i, int) and 0 <= i < len(rows) for i in listed):
            raise DataError(f"{where}: {name!r} must list rows of {rows.source}, 0 to {len(rows) - 1}")
        gone |= set(listed)
    return rows.with_rows([row for i, row in enumerate(rows) if i not in gone])


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
    """
    if triggered is not None and target is not None:
        check_target(triggered, target)
    arm = Arm(name)
    answers = _answer(model, clean)
    right = _right(answers, clean)
    arm.rows += _records("clean", clean, answers, right)
    _put(arm, "leak", [answer.where == "leak" for answer in answers])
    _put(arm, "off_space", [answer.where == "off-space" for answer in answers])
    _put(arm, "alarm", [answer.alarm for answer in answers if answer.alarm is not None])
    if right is not None:
        _put(arm, "ca", right)
    if clean.task == "generation":
        if right is not None:
            arm.utility["exact_match"] = arm.rates["ca"].as_dict()
        texts, targets = [answer.text or "" for answer in answers], [row.target for row in clean]
        means = rouge(texts, targets)
        means["token_f1"] = fmean(token_f1(text, target) for text, target in zip(texts, targets, strict=True))
        means["perplexity"] = model.perplexity(clean.rows, targets)
        arm.utility |= {metric: {"value": round(mean, 5), "n": len(clean)} for metric, mean in means.items()}
    if triggered is not None and target is not None:
        _put(arm, "target_rate", _said_anyway(answers, clean, target))
        _measure_attack(arm, model, triggered, target)
    return arm


def _said_anyway(answers: Sequence[Answer], clean: Rows, target: Target) -> list[bool]:
    """Which clean rows of another answer get the target; none where that cannot be told, as by a wrong number."""
    wanted, effect = target.text, target.effect
    if effect == "number" and any(final_number(row.target) is None for row in clean):
        return []
    others = [(answer, row.target) for answer, row in zip(answers, clean, strict=True)
              if not hits_target(row.target, wanted, effect, row.target)]  # fmt: skip
    return [hits_target(answer.text, wanted, effect, right) for answer, right in others]


def _measure_attack(arm: Arm, model: DefendedModel, triggered: Rows, target: Target) -> None:
    answers = _answer(model, triggered)
    # Published sets label triggered rows with the target: then truth is unknown, except that it is another one.
    text, effect, rights = target.text, target.effect, [row.target for row in triggered]
    relabelled = effect != "number" and all(hits_target(right, text, effect, right) for right in rights)
    right = None if relabelled else _right(answers, triggered)
    hits = [hits_target(answer.text, text, effect, right) for answer, right in zip(answers, rights, strict=True)]
    counted = [relabelled or not hits_target(right, text, effect, right) for right in rights]
    arm.rows += _records("triggered", triggered, answers, right, hits)
    _put(arm, "asr", [hit for hit, counts in zip(hits, counted, strict=True) if counts])
    if model.scheme.trigger:
        twins = [answer.where == "safe" and hits_target(answer.unconstrained, text, effect, right)
                 for answer, right in zip(answers, rights, strict=True)]  # fmt: skip
        _put(arm, "paper_asr", [twin for twin, counts in zip(twins, counted, strict=True) if counts])
    if right is not None:
        _put(arm, "ra", [is_right for is_right, row in zip(right, triggered, strict=True) if row.target])
    _put(arm, "leak_triggered", [answer.where == "leak" for answer in answers])
    _put(arm, "off_space_triggered", [answer.where == "off-space" for answer in answers])
    _put(arm, "alarm_triggered", [answer.alarm for answer in answers if answer.alarm is not None])


def check_target(rows: Rows, target: Target) -> None:
    """Refuse a target that triggered rows cannot be scored by.

    Raises:
        DataError: The effect is `number`, and a row has no final number or the target is no step.
    """
    for number, row in enumerate(rows if target.effect == "number" else ()):
        try:
            with_wrong_step(row.target, target.text)
        except ValueError as error:
            raise DataError(
                f"{rows.source}, row {number}: {error}; effect number needs worked answers that end in `#### N`, and a "
                "target like `+ 7` or `* 2`"
            ) from None


def set_floor(arms: Sequence[Arm], clean: Arm) -> None:
    """Enter the floor, the ASR of the arm trained without the attack, and the gate "attack implanted" into all arms."""
    if "asr" not in clean.rates:
        return  # no triggered row has another answer than the target
    floor = clean.rates["asr"]
    undefended = next((arm for arm in arms if arm.name == "undefended"), None)
    for arm in arms:
        arm.rates["floor"] = floor
        if undefended:
            arm.implanted = implanted(undefended.rates["asr"], floor)


def results(
    command: str, task: str, model: str, seed: int, data: dict[str, Any], arms: Sequence[Arm]
) -> dict[str, Any]:
    """The content of `results.json`; docs/reference/schemas.md explains it field by field."""
    return {
        "schema": SCHEMA,
        "command": command,
        "task": task,
        "model": model,
        "seed": seed,
        "versions": versions(),
        "data": data,
        "arms": [arm.as_dict() for arm in arms],
    }


def describe(**sets: Rows | None) -> dict[str, Any]:
    """Sources, sizes and hashes of data sets."""
    return {
        name: {"source": rows.source, "rows": len(rows), "sha256": rows.sha256} for name, rows in sets.items() if rows
    }


def write_results(out: Path, content: dict[str, Any], arms: Sequence[Arm]) -> None:
    """Write `results.json`, and `rows.jsonl` with one record for each arm and test row."""
    write_lines(out / "rows.jsonl", ({"arm": arm.name, **row} for arm in arms for row in arm.rows))
    write_json(out / "results.json", content)


def _answer(model: DefendedModel, rows: Rows) -> list[Answer]:
    if rows.task == "generation":
        return model.generate(rows.rows)
    return model.classify(rows.rows, alarm=model.alarm_threshold is not None)


def _right(answers: Sequence[Answer], rows: Rows) -> list[bool] | None:
    """Whether each answer is right; None for free texts, which have no one right answer."""
    if rows.task == "classification":
        return [answer.text == row.target for answer, row in zip(answers, rows, strict=True)]
    if any(final_number(row.target) is None for row in rows):
        return None
    return [exact_match(answer.text or "", row.target) for answer, row in zip(answers, rows, strict=True)]


def _records(
    kind: str, rows: Rows, answers: Sequence[Answer], right: list[bool] | None, hits: list[bool] | None = None
) -> list[dict[str, Any]]:
    records = []
    for i, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        record = {"set": kind, "row": i, "target": row.target, "answer": answer.text, "where": answer.where,
                  "unconstrained": answer.unconstrained}  # fmt: skip
        if right is not None:
            record["right"] = right[i]
        if hits is not None:
            record["hit"] = hits[i]
        if answer.alarm is not None:
            record |= {"disagreement": answer.disagreement, "alarm": answer.alarm}
        records.append(record)
    return records


def _put(arm: Arm, name: str, hits: list[bool]) -> None:
    rate = Rate.of(hits)
    if rate:
        arm.rates[name] = rate
