"""Measure one cell: python -m poison2poison.bench.cell FOLDER, with its settings as a line of JSON on stdin.

The pipe stays open as long as the benchmark runs: at its end this process ends too, so that none is left at work in a
folder that the next run goes on with.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from poison2poison.attacks import (
    AttackConfig,
    Target,
    default_target,
    effects,
    poison,
    read_target,
    read_truth,
    triggered,
    without_poison,
)
from poison2poison.auditing.findings import Audit
from poison2poison.bench.cells import SCHEMA, Cell, State, Suspects, write_state
from poison2poison.bench.config import NO_ATTACK
from poison2poison.bench.runner import RUN
from poison2poison.config import AuditConfig, TrainConfig
from poison2poison.data import Rows, check_apart, read_rows
from poison2poison.defences.base import chosen
from poison2poison.errors import DataError, InapplicableError, P2PError
from poison2poison.files import write_json
from poison2poison.pipeline import Data, defend
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.recipe.trigger import draw_words
from poison2poison.reference import reference_rows
from poison2poison.registry import run_file
from poison2poison.report import write_findings

TRUTH, CHANGED = "truth.json", ("poisoned_rows", "cover_rows")


def measure_cell(cell: Cell, defences: list[str], folder: Path) -> State:
    """Measure all defences on a cell, or go on with it, and write what became of it into its folder.

    A defence that fails is left out, and the reason kept.

    Raises:
        P2PError: The cell's data cannot be used.
    """
    started, begun = time.monotonic(), (folder / RUN).exists()
    data = data_of(cell, folder)
    recipe = recipe_of(cell, data.train)
    audit = AuditConfig(**cell.audit)
    training = TrainConfig(**{**cell.settings, "seed": cell.seed})
    asked = [chosen(given, recipe) for given in defences]
    lost: dict[str, Exception] = {}
    defend(data, asked, training, folder / RUN, audit=audit, allow_unlearned=True, lost=lost)
    found = write_findings(folder / RUN, data.train)
    state: State = {
        "schema": SCHEMA,
        "about": cell.about,
        "settings": cell.as_dict(),
        "defences": defences,
        "failed": {arm: _told(error) for arm, error in lost.items() if not isinstance(error, InapplicableError)},
        "inapplicable": {arm: str(error) for arm, error in lost.items() if isinstance(error, InapplicableError)},
        "suspects": _held_against_the_truth(found, folder),
        "seconds": None if begun else round(time.monotonic() - started, 1),
    }
    write_state(folder, state)
    return state


def _held_against_the_truth(found: Audit | None, folder: Path) -> Suspects | None:
    """How many of the suspect rows are poisoned, and of the poisoned suspect."""
    known = read_truth(folder / TRUTH).get("poisoned_rows") if (folder / TRUTH).exists() else None
    if found is None or known is None:
        return None
    suspects, poisoned = {entry.row for entry in found.rows}, {*known}
    hits = len(suspects & poisoned)
    precision, recall = (round(hits / len(of), 4) if of else None for of in (suspects, poisoned))
    return {"suspects": len(suspects), "poisoned": len(poisoned), "precision": precision, "recall": recall}


def _told(error: Exception) -> str:
    """The reason of a failure; of one that is no user's, its traceback goes into the log."""
    if isinstance(error, P2PError):
        return str(error)
    traceback.print_exception(error)
    return f"{type(error).__name__}: {error}"


def recipe_of(cell: Cell, rows: Rows) -> RepoisonConfig:
    """How rows are re-poisoned, with a benign trigger that the same cell draws again.

    A grid may have tasks of both kinds; how labels are made safe is left out of rows without any.
    """
    given = {name: value for name, value in cell.recipe.items() if rows.labels or name != "safe_labels"}
    recipe = RepoisonConfig(**{**given, "seed": cell.seed})
    if recipe.resolved().trigger != "random":
        return recipe
    rng = random.Random(f"bench/{cell.key}")
    texts = [text for row in rows for text in (row.text, row.target)]
    recipe = replace(recipe, prefix=" ".join(draw_words(texts, rng=rng)) + ": ")
    if rows.task == "generation" or recipe.safe_labels == "prefix":
        recipe = replace(recipe, safe_prefix=" ".join(draw_words(texts, bits=20, rng=rng)) + ": ")
    return recipe


def data_of(cell: Cell, folder: Path) -> Data:
    """The rows of a cell, poisoned, and the sets to measure on; `truth.json` goes into its folder."""
    if cell.task.folder:
        return _attacked(cell, Path(cell.task.folder), folder)
    splits = _splits(cell)
    train, test = splits["train"], splits["test"]
    if cell.attack.kind == NO_ATTACK:
        return Data(cell.task.name, train, splits.get("dev"), test)
    effect = cell.attack.effect or effects(train.task)[0]
    wanted = default_target(train, effect) if cell.attack.target is None else cell.attack.target
    own = cell.attack
    attack = AttackConfig(
        own.kind, wanted, effect, cell.rate, own.options, own.clean_label, own.cover, own.prefix, cell.seed
    )
    rows, truth = poison(train, attack)
    write_json(folder / TRUTH, truth.as_dict())  # beside the run, in which no defence finds it
    stamped, target, harmless = triggered(test, attack), Target(wanted, effect), train if cell.floor else None
    return Data(cell.task.name, rows, splits.get("dev"), test, stamped, target, harmless)


def _splits(cell: Cell) -> dict[str, Rows]:
    """The rows before the attack."""
    task = cell.task
    if not task.train or not task.test:
        return reference_rows(task.name, seed=cell.seed, sizes=cell.sizes)
    train = _first(read_rows(task.train, task.data), task.rows)
    splits = {"train": train, "test": _first(read_rows(task.test, task.data, labels=train.labels), task.held_out)}
    check_apart(train, splits["test"], "test")
    if task.dev:
        splits["dev"] = _first(read_rows(task.dev, task.data, labels=train.labels), task.held_out)
    return splits


def _attacked(cell: Cell, folder: Path, out: Path) -> Data:
    """The sets of a folder of `p2p attack`, with the rows and the share of the poisoned ones that are used.

    Raises:
        DataError: One is missing.
    """
    for name in ("train.jsonl", "test_clean.jsonl", "test_triggered.jsonl", TRUTH):
        if not (folder / name).is_file():
            raise DataError(f"{folder / name}: is missing; give a folder that `p2p attack` wrote, with --test")
    config, most = cell.task.data, cell.task.held_out
    train = _first(read_rows(str(folder / "train.jsonl"), config), cell.task.rows)
    clean = _first(read_rows(str(folder / "test_clean.jsonl"), config, labels=train.labels), most)
    stamped = _first(read_rows(str(folder / "test_triggered.jsonl"), config, labels=train.labels, targets=False), most)
    checks, before = folder / "dev_clean.jsonl", folder / "train_clean.jsonl"
    dev = _first(read_rows(str(checks), config, labels=train.labels), most) if checks.is_file() else None
    truth = read_truth(folder / TRUTH)
    if cell.task.rows:
        truth |= {name: [i for i in truth.get(name, []) if i < len(train)] for name in CHANGED}
    harmless = None
    if cell.floor and before.is_file():
        harmless = _first(read_rows(str(before), config, labels=train.labels), cell.task.rows)
    elif cell.floor:
        harmless = without_poison(train, truth, folder / TRUTH)
    train, truth = _kept(train, truth, cell)
    write_json(out / TRUTH, truth)  # beside the run, in which no defence finds it
    return Data(cell.task.name, train, dev, clean, stamped, read_target(out / TRUTH), harmless)


def _first(rows: Rows, most: int | None) -> Rows:
    return rows.with_rows(rows.rows[:most])


def _kept(rows: Rows, truth: dict[str, Any], cell: Cell) -> tuple[Rows, dict[str, Any]]:
    """The rows without the poisoned ones that are not kept, and the truth of what is left.

    Raises:
        DataError: The truth names no poisoned rows, or rows that the data does not have.
    """
    if cell.task.kept is None:
        return rows, truth
    without_poison(rows, truth, Path(str(cell.task.folder)) / TRUTH)  # which checks what it names
    poisoned = truth["poisoned_rows"]
    stays = {*random.Random(f"kept/{cell.seed}").sample(poisoned, round(cell.task.kept * len(poisoned)))}
    gone = {*poisoned} - stays
    left = [i for i in range(len(rows)) if i not in gone]
    new = {i: n for n, i in enumerate(left)}
    moved = {name: [new[i] for i in truth.get(name, []) if i in new] for name in CHANGED}
    return rows.with_rows([rows[i] for i in left]), truth | moved


def _end_with_the_runner() -> None:
    """Wait until the pipe from the benchmark closes, and end."""
    while os.read(sys.stdin.fileno(), 1):  # not through `sys.stdin`, whose lock would hold up the interpreter's end
        pass
    os._exit(1)


def main() -> None:
    """Measure the cell that stdin describes."""
    given: dict[str, Any] = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_runner, daemon=True).start()
    folder, sys.argv = Path(sys.argv[1]), given["argv"]  # the figures name the benchmark's command
    for path in given["plugins"]:
        run_file(Path(path))
    from poison2poison.cli.common import quiet

    quiet()
    try:
        measure_cell(Cell.of(given["cell"]), given["defences"], folder)
    except P2PError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
