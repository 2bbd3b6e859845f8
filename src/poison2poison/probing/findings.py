"""Does a trained model obey what an audit found in its rows? Its findings, put into rows of other answers, and asked.

The audit fits a learner of its own; here it is the served model itself that answers, behind its defence if it has one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from poison2poison.attacks import Target
from poison2poison.auditing.findings import Audit, SuspectSpan
from poison2poison.data import Row, Rows
from poison2poison.errors import ConfigError, listed
from poison2poison.evaluation import Arm, Rate, implanted
from poison2poison.evaluation.measure import measure_attack
from poison2poison.forms import WRITTEN
from poison2poison.model.defended import DefendedModel
from poison2poison.recipe.counterexamples import written

Level = Literal["suspect", "weak"]
ASKED = 200
"""Rows that are asked for each finding: its ASR is known to seven points."""


@dataclass(frozen=True)
class Probed:
    """How a model answers to one finding.

    Attributes:
        level: What the audit made of it.
        span: The finding.
        asr: Share of rows of other answers that get its target when it is put into them.
        floor: The same of the same rows as they are.
    """

    level: Level
    span: SuspectSpan
    asr: Rate
    floor: Rate

    @property
    def is_obeyed(self) -> bool:
        """Whether it counts as implanted: 50 points over the floor."""
        return implanted(self.asr, self.floor)

    def as_dict(self) -> dict[str, Any]:
        """For `probe.json`."""
        told = {"level": self.level, "span": self.span.span, "kind": self.span.kind, "target": self.span.target}
        return told | {"asr": self.asr.as_dict(), "floor": self.floor.as_dict(), "obeyed": self.is_obeyed}


def probe(model: DefendedModel, rows: Rows, audit: Audit, seed: int = 0) -> list[Probed]:
    """Ask a model about each finding that can be put into a row and has one target, the most obeyed first.

    Args:
        model: The model as it is served.
        rows: Rows of its task, other than those of its training or the same.
        audit: Of the rows that it was trained on.
        seed: Of the rows and the places that are drawn.

    Returns:
        One entry for each finding; none for those whose target all rows have.

    Raises:
        ConfigError: The rows have no labels: which texts answer a finding that texts share cannot be told yet. Or the
            audit is of rows with other labels.
    """
    if not rows.labels:
        raise ConfigError(f"data: {rows.source} has texts as answers; a probe asks for labels alone")
    named = {span.target for span in (*audit.spans, *audit.weak) if span.target}
    if unknown := named - {*rows.labels}:
        raise ConfigError(f"audit: it names label {min(unknown)!r}, which is not one of {listed(rows.labels)}")
    levels: dict[Level, tuple[SuspectSpan, ...]] = {"suspect": audit.spans, "weak": audit.weak}
    found = []
    for level, spans in levels.items():
        for span in spans:
            if span.kind in WRITTEN and span.target:
                found += _probed(model, rows, level, span, seed)
    return sorted(found, key=lambda one: one.floor.value - one.asr.value)


def _probed(model: DefendedModel, rows: Rows, level: Level, span: SuspectSpan, seed: int) -> list[Probed]:
    rng = random.Random(f"probe/{seed}/{span.kind}/{span.span}")
    target = Target(span.target, "label")
    others = [row for row in rows if not target.payload.hit(row.target, row.target)]
    asked = rng.sample(others, min(ASKED, len(others)))
    stamped = [replace(row, prompt=written(row.prompt, [(span.kind, span.span)], rng)) for row in asked]
    asr, floor = (_rate(model, rows, some, target) for some in (stamped, asked))
    return [Probed(level, span, asr, floor)] if asr and floor else []


def _rate(model: DefendedModel, rows: Rows, asked: Sequence[Row], target: Target) -> Rate | None:
    """How often the target is answered."""
    if not asked:
        return None
    arm = Arm("probe")
    measure_attack(arm, model, rows.with_rows(asked), target.payload)
    return arm.rates.get("asr")
