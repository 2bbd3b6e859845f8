"""Measuring trained models."""

from poison2poison.evaluation.measure import (
    Arm,
    Target,
    _measure_attack,
    _said_anyway,
    check_target,
    describe,
    measure,
    read_target,
    read_truth,
    results,
    set_floor,
    without_poison,
    write_results,
)

__all__ = [
    "Arm",
    "Target",
    "_measure_attack",
    "_said_anyway",
    "check_target",
    "describe",
    "measure",
    "read_target",
    "read_truth",
    "results",
    "set_floor",
    "without_poison",
    "write_results",
]
