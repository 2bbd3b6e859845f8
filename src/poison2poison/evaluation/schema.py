"""`results.json` as types; docs/reference/schemas.md explains it field by field. What was not measured is absent."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from poison2poison.types import Where

SCHEMA = 1

RateName = Literal[
    "ca",
    "asr",
    "asr_exact",
    "target_rate",
    "paper_asr",
    "ra",
    "floor",
    "leak",
    "off_space",
    "leak_triggered",
    "off_space_triggered",
    "alarm",
    "alarm_triggered",
    "rejected",
    "rejected_triggered",
]
"""The rates of an arm. `asr_exact` counts answers that are the target itself, where `asr` knows other words for it."""

SetName = Literal["clean", "triggered"]
"""The test sets, as `rows.jsonl` names them."""


class MeanFigure(TypedDict):
    """A mean over n rows."""

    value: float
    n: int


class RateFigure(MeanFigure):
    """A share of n rows with its Wilson 95 % interval."""

    low: float
    high: float


class SetRecord(TypedDict):
    """Where a data set comes from, and what it is."""

    source: str
    rows: int
    sha256: str


class _Named(TypedDict):
    name: str


class ArmRecord(_Named, total=False):
    """One trained model."""

    ca: RateFigure
    asr: RateFigure
    asr_exact: RateFigure
    target_rate: RateFigure
    paper_asr: RateFigure
    ra: RateFigure
    floor: RateFigure
    leak: RateFigure
    off_space: RateFigure
    leak_triggered: RateFigure
    off_space_triggered: RateFigure
    alarm: RateFigure
    alarm_triggered: RateFigure
    rejected: RateFigure
    rejected_triggered: RateFigure
    utility: dict[str, RateFigure | MeanFigure]
    implanted: bool
    safe_space: dict[str, Any]
    rho: float
    needs: list[str]
    train_seconds: float
    peak_memory_mib: int


class Results(TypedDict):
    """The whole file."""

    schema: int
    command: str
    task: str
    model: str
    seed: int
    run_by: str
    device: str
    versions: dict[str, str]
    data: dict[str, SetRecord]
    arms: list[ArmRecord]


class _RowAlways(TypedDict):
    set: SetName
    row: int
    prompt: str
    target: str
    answer: str | None
    where: Where
    unconstrained: str | None


class RowRecord(_RowAlways, total=False):
    """One line of `rows.jsonl`: an arm's answer to a test row."""

    arm: str
    right: bool
    hit: bool
    disagreement: float | None
    alarm: bool
    rejected: bool
