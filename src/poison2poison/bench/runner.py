"""Run the cells of a benchmark, each in a process of its own, and gather their figures."""

from __future__ import annotations

import json
import queue
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from statistics import fmean
from typing import Any

from poison2poison.bench.cells import SCHEMA, Cell, State, cells_of, read_state, write_state
from poison2poison.bench.config import BenchConfig
from poison2poison.bench.workers import Environment, Here, OnRay
from poison2poison.config import at_least
from poison2poison.errors import OutputError
from poison2poison.files import command_line, locked, write_json
from poison2poison.registry import files_run
from poison2poison.report.summary import summarise

CELLS, RUN = "cells", "run"
"""In `--out`: the folder of the cells. In a cell: the folder of its `p2p defend`."""
CELL = "cell"
"""What failed where no defence came to its turn."""
Say = Callable[[str], None]


def run_bench(
    config: BenchConfig, out: Path, workers: int = 1, say: Say = print, *, ray: bool = False
) -> dict[str, Any]:
    """Measure every cell that is not finished; a cell that fails stops no other, and is tried again the next time.

    Args:
        config: The grid.
        out: The folder: `cells/KEY` for each cell, and `results.json`.
        workers: Processes at a time; with GPUs they take turns on these.
        say: Tells the user how it goes.
        ray: Let Ray choose the machine of each process; all of them see `out` and the data under the same paths.

    Returns:
        The content of `results.json`.

    Raises:
        ConfigError: `workers` is under 1, or Ray is not installed or does not start.
        OutputError: `out` holds something else, cells of other settings, or another run is at work there.
    """
    at_least("workers", workers, 1)
    if out.exists() and any(out.iterdir()) and not (out / CELLS).is_dir():
        raise OutputError(f"{out}: exists and holds no benchmark; give another --out")
    cells = cells_of(config)
    with locked(out):
        to_do = [cell for cell in cells if not _finished(cell, config, out / CELLS / cell.key)]
        say(f"{len(cells)} cells, {len(cells) - len(to_do)} of them finished")
        _run_all(to_do, cells, config, out, workers, OnRay() if ray else Here(), say)
        content = gathered(cells, out)
        write_json(out / "results.json", content)
    return content


def _finished(cell: Cell, config: BenchConfig, folder: Path) -> bool:
    """Whether all that is asked for was measured.

    Raises:
        OutputError: The folder is of other settings.
    """
    state = read_state(folder)
    if state is None:
        return False
    here, there = cell.as_dict(), state["settings"]
    if changed := [name for name in here if here[name] != there.get(name)]:
        raise OutputError(f"{folder}: was measured with other settings ({', '.join(changed)}); give another --out")
    return not state["failed"] and {*config.defences} <= {*state["defences"]}


def _run_all(
    to_do: Sequence[Cell],
    cells: Sequence[Cell],
    config: BenchConfig,
    out: Path,
    workers: int,
    place: Here,
    say: Say,
) -> None:
    """Measure the cells, so many at a time, and write down where that failed as a whole.

    At an interruption no process is left behind.
    """
    slots: queue.Queue[Environment] = queue.Queue()
    for environment in place.environments(workers):
        slots.put(environment)

    def work(cell: Cell) -> None:
        environment, folder = slots.get(), out / CELLS / cell.key
        try:
            if reason := place.measure(_told(cell, config), folder.resolve(), environment):
                write_state(folder, _failed(cell, config, reason))
        finally:
            slots.put(environment)

    with ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(work, cell): cell for cell in to_do}
        left = [*to_do]
        try:
            for future in as_completed(futures):
                future.result()
                left.remove(futures[future])
                say(_progress(futures[future], left, cells, out, workers))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            place.stop()


def _told(cell: Cell, config: BenchConfig) -> dict[str, Any]:
    """What a cell's process reads from its pipe."""
    return {"cell": cell.as_dict(), "defences": [*config.defences], "plugins": files_run(), "argv": sys.argv}


def _failed(cell: Cell, config: BenchConfig, reason: str) -> State:
    return {
        "schema": SCHEMA,
        "about": cell.about,
        "settings": cell.as_dict(),
        "defences": [*config.defences],
        "failed": {CELL: reason},
        "inapplicable": {},
        "suspects": None,
        "seconds": None,
    }


# --- how long it takes ------------------------------------------------------------------------------------------------


def _progress(cell: Cell, left: Sequence[Cell], cells: Sequence[Cell], out: Path, workers: int) -> str:
    """What became of a cell, and how long the others take."""
    state = read_state(out / CELLS / cell.key)
    failed = state["failed"] if state else {}
    ended = f"failed ({'; '.join(f'{arm}: {reason}' for arm, reason in failed.items())})" if failed else "done"
    seconds = seconds_left(left, _measured(cells, out), workers)
    rest = "" if not left else f"; {len(left)} left" + (f", about {_spelled(seconds)}" if seconds is not None else "")
    return f"{cell.key}: {ended}{rest}"


def _measured(cells: Sequence[Cell], out: Path) -> list[tuple[Cell, float]]:
    """The cells that were measured without an interruption, and their seconds."""
    states = [(cell, read_state(out / CELLS / cell.key)) for cell in cells]
    return [(cell, state["seconds"]) for cell, state in states if state and state["seconds"] is not None]


def seconds_left(left: Sequence[Cell], done: Sequence[tuple[Cell, float]], workers: int) -> float | None:
    """How long the cells that are left take: each as those done of its task and model, or else as all done.

    None where none is done.
    """
    if not done:
        return None
    mean, total = fmean(seconds for _, seconds in done), 0.0
    for cell in left:
        alike = [took for known, took in done if (known.task.name, known.model) == (cell.task.name, cell.model)]
        total += fmean(alike) if alike else mean
    return total / workers


def _spelled(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"


# --- the figures of all cells -----------------------------------------------------------------------------------------


def gathered(cells: Sequence[Cell], out: Path) -> dict[str, Any]:
    """The content of a benchmark's `results.json`: what became of every cell, and the figures over seeds."""
    entries = [_entry(cell, out / CELLS / cell.key) for cell in cells]
    return {
        "schema": SCHEMA,
        "command": "bench",
        "run_by": command_line(),
        "cells": entries,
        "summary": summarise(entries),
    }


def _entry(cell: Cell, folder: Path) -> dict[str, Any]:
    state, path = read_state(folder), folder / RUN / "results.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    lost = {name: state[name] if state else {} for name in ("failed", "inapplicable")}
    found = {"suspects": state["suspects"] if state else None}
    return {**cell.about, "folder": f"{CELLS}/{cell.key}/{RUN}", **lost, **found, "results": results}
