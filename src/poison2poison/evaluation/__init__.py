"""Measuring trained models. Only the evaluation may know the truth.

rates     shares with intervals, means, and the gate "attack implanted"
metrics   what answers to clean rows are worth; their registry
measure   one model on clean and triggered rows
results   the figures of all models, and their files
schema    `results.json` as types

How to add a metric: docs/how-to/add-a-metric.md.
"""

from __future__ import annotations

from poison2poison.attacks.truth import Target, read_target, read_truth, without_poison
from poison2poison.evaluation.measure import check_target, measure
from poison2poison.evaluation.metrics import METRICS, Metric
from poison2poison.evaluation.rates import IMPLANTED_POINTS, Mean, Rate, implanted
from poison2poison.evaluation.results import Arm, describe, results, set_floor, write_results

__all__ = [
    "IMPLANTED_POINTS",
    "METRICS",
    "Arm",
    "Mean",
    "Metric",
    "Rate",
    "Target",
    "check_target",
    "describe",
    "implanted",
    "measure",
    "read_target",
    "read_truth",
    "results",
    "set_floor",
    "without_poison",
    "write_results",
]
