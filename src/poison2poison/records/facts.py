"""What an artifact says of itself, and what was measured of it. No torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from poison2poison.errors import DataError, ModelError, listed
from poison2poison.model.run import refuse_unfinished
from poison2poison.records.spectrum import Spectrum, spectrum

DISCLOSURE = (
    "This model is a benign backdoor. Its defender trained it with a secret trigger and safe answers behind it. "
    "The server puts the trigger before every prompt. A scanner for backdoors may flag the model, and is right: there "
    "is one. Without the trigger the model is not defended, and who knows the trigger can poison the next training."
)
UNDEFENDED = "This model was trained without a defence: what was planted in its rows is in it."
ACTIONS = {
    "keep": "left as they were",
    "replace": "moved to the safe space",
    "append": "copied into the safe space",
    "splice": "given suspect or weak spans, in the safe space",
    "correct": "copied into the safe space with a likelier label",
    "confirm": "of a suspect style, copied into the safe space with their label",
    "off-target": "of other labels with a suspect span or style, copied into the safe space",
}
"""What was done to rows, by the manifest's words."""
UNATTACKED = "clean"
"""The arm of `p2p defend --floor`, which is trained on rows of its own: those without the attack."""


class Figure(NamedTuple):
    """One figure: a rate with its Wilson 95 % interval, or a mean without."""

    name: str
    on: str
    value: float
    n: int
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Facts:
    """What is told of an artifact.

    Attributes:
        name: Its folder's name.
        run: The content of `run.json`.
        entries: The content of `manifest.jsonl`: a training row each.
        results: The content of `results.json`, or nothing.
        arm: What of it is of this artifact, or nothing.
        spectrum: Of its adapter; None where it has none.
    """

    name: str
    run: Mapping[str, Any]
    entries: list[dict[str, Any]]
    results: Mapping[str, Any]
    arm: Mapping[str, Any]
    spectrum: Spectrum | None

    @property
    def base(self) -> str:
        """The base model, as it was named."""
        return str(self.run["config"]["model"])

    @property
    def revision(self) -> str | None:
        """The base model's commit; None where it is a folder."""
        revision = self.run.get("revision")
        return None if revision is None else str(revision)

    @property
    def is_defended(self) -> bool:
        """Whether there is a benign trigger."""
        return any(entry["space"] == "safe" for entry in self.entries)

    @property
    def disclosure(self) -> str:
        """What whoever uses or scans the model has to know."""
        return DISCLOSURE if self.is_defended else UNDEFENDED

    @property
    def task(self) -> str:
        """Of the rows: those with labels have them in the manifest."""
        return "classification" if any("label" in entry for entry in self.entries) else "generation"

    @property
    def done(self) -> Counter[str]:
        """How many training rows there are of each action."""
        return Counter(entry["action"] for entry in self.entries)

    @property
    def data(self) -> dict[str, Mapping[str, Any]]:
        """The data sets, each with source, rows and sha256: that of the training, and those of the figures."""
        known = {**self.results.get("data", {}), **self.run.get("data", {}), "dev": self.run.get("dev")}
        return {name: known[name] for name in ("train", "dev", "test", "triggered") if known.get(name)}

    @property
    def recipe(self) -> dict[str, Any]:
        """The options of the recipe; what was secret of them was never recorded."""
        return dict((self.run.get("data") or {}).get("recipe") or {})

    @property
    def figures(self) -> list[Figure]:
        """All that was measured."""
        return [*_figures(self.arm), *_figures(self.arm.get("utility", {}))]


def _figures(held: Mapping[str, Any]) -> Iterator[Figure]:
    for name, value in held.items():
        if isinstance(value, dict) and "value" in value:
            on = "triggered rows" if name in TRIGGERED else "clean rows"
            yield Figure(name, on, value["value"], value["n"], value.get("low"), value.get("high"))


TRIGGERED = ("asr", "asr_exact", "paper_asr", "ra", "floor", "leak_triggered", "off_space_triggered", "alarm_triggered")
"""Rates of an arm that are counted on triggered rows."""


def read_facts(folder: Path, results: Path | None = None) -> Facts:
    """Read what an artifact and the figures of it say.

    Raises:
        DataError: The figures or the manifest cannot be read, or there are none of this artifact.
        ModelError: The folder is no artifact, or its training did not end.
    """
    run = _run(folder)
    name = folder.resolve().name
    content = _results(results, name, run) if results else {}
    arm: dict[str, Any] = next((arm for arm in content.get("arms", ()) if arm["name"] == name), {})
    return Facts(name, run, _entries(folder / "manifest.jsonl"), content, arm, spectrum(folder / "model"))


def _run(folder: Path) -> dict[str, Any]:
    path = folder / "run.json"
    try:
        run = dict(json.loads(path.read_text(encoding="utf-8")))
        refuse_unfinished(folder, run, allow_unlearned=True)
        run["config"]["model"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: no record of an artifact ({error}); give a folder of `p2p train`") from None
    return run


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        # Not `splitlines`: labels may hold the other ends of lines that Unicode knows.
        lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
        entries = [dict(json.loads(line)) for line in lines]
        unknown = {entry["action"] for entry in entries} - ACTIONS.keys()
        if unknown:
            raise ValueError(f"action {min(unknown)!r} is not one of {listed(ACTIONS)}")
        for entry in entries:
            entry["row"], entry["space"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: no manifest ({error})") from None
    return entries


def _results(path: Path, name: str, run: Mapping[str, Any]) -> dict[str, Any]:
    try:
        content = dict(json.loads(path.read_text(encoding="utf-8")))
        arms = [arm["name"] for arm in content["arms"]]
        is_other = name != UNATTACKED and _of_other_rows(content.get("data") or {}, run)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: holds no figures of one run ({error})") from None
    if name not in arms:
        raise DataError(f"{path}: has no figures of {name!r}, but of {listed(arms)}")
    if arms.count(name) > 1:
        raise DataError(f"{path}: has figures of several tasks; give the results.json beside the folder")
    if is_other:
        raise DataError(f"{path}: has figures of a training on other rows")
    return content


def _of_other_rows(measured: Mapping[str, Any], run: Mapping[str, Any]) -> bool:
    """Whether figures are of another training than a run, as far as both say what they were of."""
    recorded = [(data.get("train") or {}).get("sha256") for data in (measured, run.get("data") or {})]
    return None not in recorded and recorded[0] != recorded[1]
