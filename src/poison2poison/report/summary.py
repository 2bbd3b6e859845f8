"""Figures of cells that differ by their seed alone, put together. No torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, TypedDict

PLACE = ("task", "model", "attack", "rate")
"""What a cell is, but for its seed."""
COSTS = ("train_seconds", "peak_memory_mib")


class _Mean(TypedDict):
    value: float
    n: int
    seeds: int


class Figure(_Mean, total=False):
    """A mean over seeds. The interval reaches from the lowest to the highest of the seeds' own; means have none."""

    low: float
    high: float


def summarise(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The figures of each arm at each place of the grid.

    Args:
        cells: Each with its place, and under `results` the content of its `results.json`, or None.

    Returns:
        One record for each place and arm: the place, `arm`, `figures` by name, `needs`, and `implanted` where that was
        measured: whether it was in every seed.
    """
    arms: dict[tuple[Any, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for cell in cells:
        for arm in cell["results"]["arms"] if cell["results"] else ():
            arms[(*(cell[name] for name in PLACE), arm["name"])].append(arm)
    return [{**dict(zip((*PLACE, "arm"), key, strict=True)), **_together(found)} for key, found in arms.items()]


def _together(arms: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One arm over its seeds."""
    figures = {name: figure for name in _names(arms) if (figure := _figure(arms, name))}
    costs = {name: round(fmean(known), 1) for name in COSTS if (known := [arm[name] for arm in arms if name in arm])}
    took = [arm["implanted"] for arm in arms if "implanted" in arm]
    unlearned = any((arm.get("safe_space") or {}).get("learned") is False for arm in arms)
    out: dict[str, Any] = {"figures": figures, "needs": arms[0].get("needs", []), **costs}
    out |= {"rho": arms[0]["rho"]} if "rho" in arms[0] else {}
    return out | ({"implanted": all(took)} if took else {}) | ({"unlearned": True} if unlearned else {})


def _names(arms: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of all rates and means, in the order in which they stand."""
    rates = (name for arm in arms for name, value in arm.items() if isinstance(value, dict) and "value" in value)
    return [*dict.fromkeys([*rates, *(name for arm in arms for name in arm.get("utility", {}))])]


def _figure(arms: Sequence[Mapping[str, Any]], name: str) -> Figure | None:
    measured = [arm.get(name) or arm.get("utility", {}).get(name) for arm in arms]
    known = [figure for figure in measured if figure]
    if not known:
        return None
    value = round(fmean(figure["value"] for figure in known), 5)
    out: Figure = {"value": value, "n": sum(figure["n"] for figure in known), "seeds": len(known)}
    if all("low" in figure for figure in known):
        out["low"], out["high"] = min(figure["low"] for figure in known), max(figure["high"] for figure in known)
    return out
