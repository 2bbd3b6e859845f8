"""The figures of trained models, and the files that hold them: `results.json` and `rows.jsonl`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from poison2poison.data import Rows
from poison2poison.evaluation.rates import Mean, Rate, implanted
from poison2poison.evaluation.schema import SCHEMA, ArmRecord, RateName, Results, RowRecord, SetRecord
from poison2poison.files import command_line, versions, write_json, write_lines
from poison2poison.model.hardware import device


@dataclass
class Arm:
    """One model's figures; what was not measured is absent.

    Attributes:
        name: undefended, p2p-paper, clean, ...
        rates: Shares of test rows, by name.
        utility: What the metrics say of the answers to clean rows, by their names, and the perplexity of the targets.
        rows: One record for each test row.
        implanted: Whether the undefended ASR is 50 points over the floor.
        training: train_seconds and peak_memory_mib.
        safe_space: What the check of the safe space after training found (`model.safe_space`).
        needs: What a defender must have beside the rows.
        rho: The insertion ratio of a defence that re-poisons rows.
    """

    name: str
    rates: dict[RateName, Rate] = field(default_factory=dict)
    utility: dict[str, Rate | Mean] = field(default_factory=dict)
    rows: list[RowRecord] = field(default_factory=list)
    implanted: bool | None = None
    training: dict[str, Any] = field(default_factory=dict)
    safe_space: dict[str, Any] | None = None
    needs: Sequence[str] = ()
    rho: float | None = None

    def put(self, name: RateName, hits: Sequence[bool]) -> None:
        """Enter a rate, where there is something to count."""
        rate = Rate.of(hits)
        if rate:
            self.rates[name] = rate

    def as_dict(self) -> ArmRecord:
        """The arm as it stands in `results.json`."""
        out: dict[str, Any] = {"name": self.name} | {name: rate.as_dict() for name, rate in self.rates.items()}
        if self.utility:
            out["utility"] = {name: figure.as_dict() for name, figure in self.utility.items()}
        if self.implanted is not None:
            out["implanted"] = self.implanted
        if self.safe_space is not None:
            out["safe_space"] = self.safe_space
        if self.rho is not None:
            out["rho"] = self.rho
        if self.needs:
            out["needs"] = [*self.needs]
        return cast(ArmRecord, out | self.training)


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


def results(command: str, task: str, model: str, seed: int, data: dict[str, SetRecord], arms: Sequence[Arm]) -> Results:
    """The content of `results.json`."""
    return {
        "schema": SCHEMA,
        "command": command,
        "task": task,
        "model": model,
        "seed": seed,
        "run_by": command_line(),
        "device": device(),
        "versions": versions(),
        "data": data,
        "arms": [arm.as_dict() for arm in arms],
    }


def describe(**sets: Rows | None) -> dict[str, SetRecord]:
    """Sources, sizes and hashes of data sets."""
    return {
        name: {"source": rows.source, "rows": len(rows), "sha256": rows.sha256} for name, rows in sets.items() if rows
    }


def write_results(out: Path, content: Results, arms: Sequence[Arm]) -> None:
    """Write `results.json`, and `rows.jsonl` with one record for each arm and test row."""
    write_lines(out / "rows.jsonl", ({"arm": arm.name, **row} for arm in arms for row in arm.rows))
    write_json(out / "results.json", content)
