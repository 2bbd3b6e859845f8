"""A benchmark: its file, its cells, what becomes of failures, and that a run that was killed ends as another does."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
import yaml

from poison2poison.attacks import AttackConfig, Target, default_target, write_attack
from poison2poison.bench import BenchConfig, Cell, cells_of, read_config, run_bench
from poison2poison.bench.cell import data_of, recipe_of
from poison2poison.bench.config import AttackEntry, TaskEntry
from poison2poison.bench.runner import gathered, seconds_left
from poison2poison.data import as_records
from poison2poison.defences import DEFENCES
from poison2poison.errors import ConfigError, DataError, OutputError
from poison2poison.files import write_lines
from poison2poison.reference import reference_rows
from poison2poison.registry import run_file
from support import opinions, tiny_causal

ROOT = Path(__file__).parents[1]
TIMES = ("train_seconds", "peak_memory_mib", "run_by")
KILLS = int(os.environ.get("P2P_KILLS", "3"))
"""How often a benchmark is killed."""


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """A benchmark that takes seconds."""
    write_lines(tmp_path / "rows.jsonl", as_records(opinions(120)))
    write_lines(tmp_path / "test.jsonl", as_records(opinions(40, seed=1)))
    mine = {"name": "mine", "train": str(tmp_path / "rows.jsonl"), "test": str(tmp_path / "test.jsonl")}
    training = {"epochs": 2, "more_epochs": 0, "batch_size": 8, "tuning": "full", "learning_rate": 0.003}
    return {"tasks": [mine], "models": [tiny_causal(tmp_path / "tiny")], "training": training,
            "recipe": {"rho": 0.5}, "defences": ["undefended", "hardened", "z-defence"]}  # fmt: skip


def in_yaml(folder: Path, settings: dict[str, Any]) -> Path:
    path = folder / "bench.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def run(config: Path, out: Path, *before: str, after: Sequence[str] = ()) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "poison2poison", *before, "bench", str(config), "--out", str(out), *after]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def figures(value: Any) -> Any:
    """The content of results without times."""
    if isinstance(value, dict):
        return {key: figures(part) for key, part in value.items() if key not in TIMES}
    return [figures(part) for part in value] if isinstance(value, list) else value


def results(folder: Path) -> Any:
    """Those of a run, without times."""
    return figures(json.loads((folder / "results.json").read_text()))


def test_a_run_that_is_killed_at_random_moments_ends_with_the_same_figures(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    config, drawn, killed = in_yaml(tmp_path, settings), random.Random(), tmp_path / "killed"
    begun = time.monotonic()
    _, said = run(config, tmp_path / "whole").communicate()
    whole = time.monotonic() - begun
    # The benchmark with its cell, or alone: then the cell ends by itself.
    for kill in islice(cycle((os.killpg, os.kill)), KILLS):
        process = run(config, killed)
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=whole * drawn.uniform(0.1, 0.9))
        if process.poll() is None:
            kill(process.pid, signal.SIGKILL)
            process.communicate()
        elif (killed / "results.json").exists():  # it went on to its end: the next begins anew
            assert results(killed) == results(tmp_path / "whole")
            shutil.rmtree(killed)
    process = run(config, killed)
    _, again = process.communicate()
    assert process.returncode == 0, again
    one = results(tmp_path / "whole")
    assert [arm["name"] for arm in one["cells"][0]["results"]["arms"]] == [
        "undefended", "p2p-hardened", "z-defence", "clean",
    ], said  # fmt: skip
    assert one == results(killed)
    run_folder = next((tmp_path / "whole" / "cells").iterdir()) / "run"
    secret = json.loads((run_folder / "p2p-hardened" / "scheme.json").read_text())["trigger"]["prefix"]
    for name in ("report.html", "results.json"):
        assert secret.strip() not in (tmp_path / "whole" / name).read_text()
    told: list[str] = []
    run_bench(read_config(config), killed, say=told.append)
    assert told == ["1 cells, 1 of them finished"]


@pytest.mark.slow
def test_two_workers_of_ray_find_what_two_processes_find(tmp_path: Path, settings: dict[str, Any]) -> None:
    pytest.importorskip("ray", reason="cells on other machines need the extra `ray`")
    config = in_yaml(tmp_path, {**settings, "seeds": [0, 1], "defences": ["undefended", "z-defence"]})
    for name, after in (("here", "--workers 2"), ("ray", "--workers 2 --ray")):
        process = run(config, tmp_path / name, after=after.split())
        _, said = process.communicate()
        assert process.returncode == 0, said
    here, ray = (results(tmp_path / name) for name in ("here", "ray"))
    assert len(here["cells"]) == 2
    assert here == ray


def test_without_ray_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"ray: is not installed; pip install 'poison2poison\[ray\]'"):
        run_bench(BenchConfig(tasks=(TaskEntry("reviews"),)), tmp_path / "out", ray=True)


def test_a_cell_draws_its_rows_and_its_trigger_again(tmp_path: Path) -> None:
    config = BenchConfig(tasks=(TaskEntry("reviews"),), seeds=(0, 1), sizes={"train": 60, "dev": 5, "test": 20})
    one, again, other = (data_of(cell, tmp_path) for cell in [*cells_of(config)[:1] * 2, cells_of(config)[1]])
    assert (one.train.sha256, one.triggered) == (again.train.sha256, again.triggered)
    assert one.train.sha256 != other.train.sha256
    drawn = [recipe_of(cell, one.train).prefix for cell in (*cells_of(config)[:1] * 2, cells_of(config)[1])]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("effect", ["label", "fixed"])
def test_a_folder_of_an_attack_is_a_task(tmp_path: Path, effect: str) -> None:
    sizes = {"train": 60, "dev": 5, "test": 20}
    splits = reference_rows("reviews" if effect == "label" else "instructions", sizes=sizes)
    attack = AttackConfig("badnets", default_target(splits["train"], effect), effect)
    write_attack(tmp_path / "attacked", splits, attack)
    [cell] = cells_of(BenchConfig(tasks=(TaskEntry(folder=str(tmp_path / "attacked")),)))
    data = data_of(cell, tmp_path)
    assert data.name == "attacked"
    assert data.harmless is not None and data.harmless.sha256 == splits["train"].sha256
    assert data.target == Target(attack.target, effect)
    assert (len(data.train), data.dev and len(data.dev), len(data.clean)) == (60, 5, 20)
    entry = TaskEntry(folder=str(tmp_path / "attacked"), kept=0.5)
    [cell] = cells_of(BenchConfig(tasks=(entry,)))
    some, truth = data_of(cell, tmp_path).train, json.loads((tmp_path / "truth.json").read_text())
    assert (len(some), len(truth["poisoned_rows"])) == (57, 3)
    assert {some[i] for i in truth["poisoned_rows"]} < {*data.train} - {*splits["train"]}
    assert len({*some} - {*splits["train"]}) == 3
    [cell] = cells_of(BenchConfig(tasks=(TaskEntry(folder=str(tmp_path / "attacked"), rows=40),)))
    first, truth = data_of(cell, tmp_path), json.loads((tmp_path / "truth.json").read_text())
    assert first.train.rows == data.train.rows[:40] and first.harmless and len(first.harmless) == 40
    changed = [i for i in range(40) if data.train[i] != splits["train"][i]]
    assert truth["poisoned_rows"] == changed
    [cell] = cells_of(BenchConfig(tasks=(TaskEntry(folder=str(tmp_path / "attacked"), held_out=4),)))
    few = data_of(cell, tmp_path)
    assert (few.train, few.clean.rows) == (data.train, data.clean.rows[:4])
    assert [few.dev and len(few.dev), few.triggered and len(few.triggered)] == [4, 4]
    (tmp_path / "attacked" / "truth.json").unlink()
    with pytest.raises(DataError, match=r"truth.json: is missing; give a folder that `p2p attack` wrote"):
        data_of(cell, tmp_path)


def test_what_fails_is_reported_and_stops_nothing(tmp_path: Path, settings: dict[str, Any]) -> None:
    """One defence drops every row of a label, one asks a model of another kind; one task has no file."""
    (tmp_path / "own.py").write_text(
        "import numpy as np\n"
        "from poison2poison.defences import RowFilter, register\n"
        "@register\n"
        "class Everything(RowFilter):\n"
        "    name = 'everything'\n"
        "    def suspects(self, context): return np.arange(len(context.texts))\n"
        "@register\n"
        "class Never(RowFilter):\n"
        "    name = 'never'\n"
        "    def applies(self, rows): return False\n"
        "    def suspects(self, context): return np.arange(0)\n"
    )
    gone = {"name": "gone", "train": str(tmp_path / "none.jsonl"), "test": str(tmp_path / "none.jsonl")}
    wanted = {**settings, "tasks": [gone, *settings["tasks"]], "defences": ["everything", "never", "undefended"],
              "floor": False}  # fmt: skip
    process = run(in_yaml(tmp_path, wanted), tmp_path / "out", "--plugin", str(tmp_path / "own.py"))
    _, said = process.communicate()
    assert process.returncode == 3
    assert "none.jsonl" in said and "leave none of label" in said
    first, second = json.loads((tmp_path / "out" / "results.json").read_text())["cells"]
    assert "none.jsonl" in first["failed"]["cell"]
    assert first["results"] is None
    assert "leave none of label" in second["failed"]["everything"]
    assert "says nothing of rows" in second["inapplicable"]["never"]
    assert [arm["name"] for arm in second["results"]["arms"]] == ["undefended"]
    assert "none.jsonl" in (tmp_path / "out" / "report.html").read_text()


# --- the grid ---------------------------------------------------------------------------------------------------------


def test_every_task_model_attack_rate_and_seed_is_a_cell() -> None:
    config = BenchConfig(
        tasks=(TaskEntry("reviews"), TaskEntry("briefs"), TaskEntry(folder="data/done")),
        attacks=(
            AttackEntry(),
            AttackEntry("none"),
            AttackEntry("addsent", rates=[0.3], tasks=["reviews"]),
            AttackEntry("wordset", options={"words": ["cf", "mn"]}, tasks=["briefs"]),
        ),
        rates=(0.1, 0.05),
        seeds=(0, 1),
    )
    cells = cells_of(config)
    told = [(cell.task.name, cell.attack.name, cell.rate) for cell in cells if cell.seed == 1]
    assert told == [
        ("reviews", "badnets", 0.1), ("reviews", "badnets", 0.05), ("reviews", "none", 0.0),
        ("reviews", "addsent", 0.3),
        ("briefs", "badnets", 0.1), ("briefs", "badnets", 0.05), ("briefs", "none", 0.0),
        ("briefs", "wordset", 0.1), ("briefs", "wordset", 0.05), ("done", "of its folder", 0.0),
    ]  # fmt: skip
    assert len({cell.key for cell in cells}) == len(cells) == 20
    assert [Cell.of(json.loads(json.dumps(cell.as_dict()))) for cell in cells] == cells


def test_the_time_left_is_that_of_the_cells_done() -> None:
    tasks = (TaskEntry("reviews"), TaskEntry("briefs"))
    first, second, third, other = cells_of(BenchConfig(tasks=tasks, rates=(0.1, 0.05)))
    assert seconds_left([first], [], 1) is None
    assert seconds_left([second], [(first, 60.0)], 1) == 60
    assert seconds_left([second, other], [(first, 60.0), (third, 20.0)], 2) == 40
    assert seconds_left([third], [(first, 60.0)], 1) == 60


def test_a_cell_of_other_settings_is_not_taken_for_finished(tmp_path: Path) -> None:
    [cell] = cells_of(BenchConfig(tasks=(TaskEntry("reviews"),)))
    folder = tmp_path / "cells" / cell.key
    folder.mkdir(parents=True)
    state = {"schema": 1, "about": cell.about, "settings": {**cell.as_dict(), "floor": False}, "defences": [],
             "failed": {}, "inapplicable": {}, "seconds": 1.0}  # fmt: skip
    (folder / "cell.json").write_text(json.dumps(state))
    with pytest.raises(OutputError, match=r"was measured with other settings \(floor\)"):
        run_bench(BenchConfig(tasks=(TaskEntry("reviews"),)), tmp_path)
    (folder / "cell.json").write_text("[")
    with pytest.raises(OutputError, match="is no cell of a benchmark"):
        gathered([cell], tmp_path)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds no benchmark"):
        run_bench(BenchConfig(tasks=(TaskEntry("reviews"),)), tmp_path)


# --- the file ---------------------------------------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"task": ["reviews"]}, "unknown option 'task'; legal here: attacks, audit, defences"),
    ({}, "tasks: is empty"),
    ({"tasks": ["reviews"], "rates": [2]}, "rates: 2.0 is not between 0 and 1"),
    ({"tasks": ["reviews"], "rates": ["much"]}, "rates: 'much' is not a number"),
    ({"tasks": ["reviews"], "seeds": [True]}, "seeds: True is not a whole number"),
    ({"tasks": ["reviews"], "seeds": [-1]}, "seed: -1 is not between 0"),
    ({"tasks": ["reviews"], "defences": ["luck"]}, "defences: 'luck' is not one of abl"),
    ({"tasks": ["reviews"], "defences": ["strip:copie=3"]}, "strip: has no option 'copie'; it has copies, share, frr"),
    ({"tasks": ["reviews"], "defences": ["strip", "strip:copies=3"]}, "defences: strip is there twice"),
    ({"tasks": ["reviews"], "attacks": ["luck"]}, "attacks: kind: 'luck' is not one of none, badnets"),
    (
        {"tasks": ["reviews"], "attacks": [{"kind": "badnets", "word": 1}]},
        "attacks: unknown key 'word'; legal",
    ),
    (
        {"tasks": ["reviews"], "attacks": [{"kind": "badnets", "options": {"year": 1}}]},
        "attacks: options: unknown key 'year'; legal here: words",
    ),
    ({"tasks": ["reviews"], "attacks": [{"kind": "addsent", "tasks": ["x"]}]}, "tasks: 'x' is not one of reviews"),
    ({"tasks": ["reviews", "reviews"]}, "tasks: reviews is there twice"),
    ({"tasks": ["reviews"], "defences": ["hardened:rho=much"]}, "hardened: rho: 'much' is not like its default, 0.5"),
    ({"tasks": ["reviews"], "defences": ["hardened:rho=2"]}, "rho: 2.0 is not between 0 and 1"),
    ({"tasks": ["reviews"], "defences": ["undefended:rho=0.2"]}, "undefended: has no options; leave 'rho=0.2' out"),
    ({"tasks": ["reviews"], "attacks": [{"rates": [2]}]}, "attacks: rates: 2.0 is not between 0 and 1"),
    ({"tasks": [{"folder": "a", "rows": 0}]}, "tasks: rows: 0 is less than 1"),
    ({"tasks": [{"name": "reviews", "rows": 9}]}, "tasks: rows: are those of files or a folder; give sizes"),
    ({"tasks": [{"name": "reviews", "held_out": 9}]}, "tasks: held_out: are those of files or a folder; give sizes"),
    ({"tasks": [{"folder": "a", "kept": 1.5}]}, "tasks: kept: 1.5 is not between 0 and 1"),
    ({"tasks": [{"name": "reviews", "kept": 0.5}]}, "tasks: kept: is of a folder's poisoned rows; give rates"),
    ({"tasks": [{"name": "reviews", "models": ["x"]}]}, "tasks: reviews: models: 'x' is not one of reference"),
    ({"tasks": [{"name": "reviews", "training": {"seed": 1}}]}, "tasks: reviews: training: unknown key 'seed'"),
    ({"tasks": [{"name": "mine", "train": "a.jsonl"}]}, "tasks: train and test: give both"),
    ({"tasks": [{"name": "mine"}]}, r"tasks: name \(of a reference task\): 'mine' is not one of reviews"),
    ({"tasks": ["reviews"], "sizes": {"train": "all"}}, "sizes: train: 'all' is not a whole number"),
    ({"tasks": ["reviews"], "sizes": {"tests": 5}}, "sizes: 'tests' is not one of train, dev, test"),
    ({"tasks": ["reviews"], "training": {"seed": 1}}, "training: unknown key 'seed'; legal here: alarm_rate"),
    ({"tasks": ["reviews"], "training": {"epochs": "three"}}, "training: epochs: 'three' is not a whole number"),
    ({"tasks": ["reviews"], "training": {"preset": "best"}}, "training: preset: 'best' is not one of auto, tuned"),
    ({"tasks": ["reviews"], "recipe": {"prefix": "x"}}, "recipe: unknown key 'prefix'; legal here: co_occurrence"),
    ({"tasks": ["reviews"], "audit": {"false_alarm": 2}}, "audit: false_alarm: 2.0 is not between 0 and 1"),
    ({"tasks": ["reviews"], "floor": "maybe"}, "floor: 'maybe' is not true or false"),
    ({"tasks": ["reviews"], "models": [{"dtype": "float32"}]}, "models: a table needs the key `model`"),
    ({"tasks": ["reviews"], "training": [1]}, r"training: \[1\] is not a table"),
]


@pytest.mark.parametrize(("values", "said"), WRONG, ids=lambda value: None)
def test_an_error_names_file_key_and_legal_values(tmp_path: Path, values: dict[str, Any], said: str) -> None:
    path = in_yaml(tmp_path, values)
    with pytest.raises(ConfigError, match=f"bench.yaml: .*(?:{said})"):
        read_config(path)


def test_names_stand_for_tables_and_options_have_the_types_of_the_attack(tmp_path: Path) -> None:
    values = {"tasks": ["reviews", "data/attacked"], "models": ["a/b", {"model": "c", "dtype": "bfloat16"}],
              "attacks": ["addsent", {"kind": "badnets", "options": {"words": ["cf"]}}], "rates": 0.2}  # fmt: skip
    config = read_config(in_yaml(tmp_path, values))
    assert [(task.name, task.folder) for task in config.tasks] == [("reviews", None), ("attacked", "data/attacked")]
    assert [model["model"] for model in config.models] == ["a/b", "c"]
    assert config.attacks[1].options == {"words": ("cf",)}
    assert config.rates == (0.2,)


def test_the_page_of_keys_has_every_key_with_its_meaning() -> None:
    page = " ".join((ROOT / "docs" / "reference" / "bench.md").read_text(encoding="utf-8").split())
    for kind in (BenchConfig, TaskEntry, AttackEntry):
        for entry in fields(kind):
            assert f"| `{entry.name}` | {entry.metadata['help']} |" in page


def test_every_committed_configuration_is_a_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DEFENCES, "_members", {**DEFENCES._members})
    run_file(ROOT / "benchmarks" / "parts.py")
    cells = {path.stem: cells_of(read_config(path)) for path in (ROOT / "benchmarks" / "configs").glob("*.yaml")}
    assert len(cells["parts"]) == 3
    models = {(cell.task.name, cell.model) for cell in cells["defense"]}
    assert ("sst2-synbkd, a fifth", "models/minilm") in models and ("briefs", "reference") in models
    assert len(models) == len({task for task, _ in models}) == 17
    assert all(len({cell.key for cell in found}) == len(found) for found in cells.values())
    epochs = {cell.task.name: cell.settings["epochs"] for cell in cells["defense"]}
    assert (epochs["cola"], epochs["sst2"], epochs["reviews"]) == (6, 3, 5)


def test_the_committed_comparison_is_a_benchmark() -> None:
    config = read_config(ROOT / "benchmarks" / "configs" / "reference.yaml")
    assert {task.name for task in config.tasks} == {"reviews", "tickets", "arithmetic", "briefs", "instructions"}
    assert len(config.seeds) == 1
    assert {"undefended", "hardened", "mb-defense"} < {*config.defences} == {*DEFENCES.names()}
    assert sorted(cell.task.name for cell in cells_of(config)) == sorted(task.name for task in config.tasks)


def test_a_grid_of_labels_and_texts_makes_labels_alone_safe_by_their_own_setting(tmp_path: Path) -> None:
    tasks, sizes = (TaskEntry("reviews"), TaskEntry("instructions")), {"train": 60, "dev": 5, "test": 20}
    cells = cells_of(BenchConfig(tasks=tasks, sizes=sizes, recipe={"safe_labels": "prefix"}))
    recipes = [recipe_of(cell, data_of(cell, tmp_path).train) for cell in cells]
    assert [recipe.safe_labels for recipe in recipes] == ["prefix", "shift"]
    assert all(recipe.safe_prefix for recipe in recipes)
