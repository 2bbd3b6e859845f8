"""The life of a run: begun, gone on with, ended; and what is refused for it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from poison2poison.config import TrainConfig
from poison2poison.errors import ModelError, OutputError, SchemeError
from poison2poison.files import write_json
from poison2poison.model.run import GOES_ON, Run, read_run, refuse_unfinished
from poison2poison.recipe.manifest import TrainingRow
from poison2poison.recipe.scheme import PAPER_TRIGGER, Scheme

SCHEME = Scheme("classification", ("no", "yes"), PAPER_TRIGGER)
ROWS = [TrainingRow(0, "safe", "replace", "a film", "yes"), TrainingRow(1, "original", "keep", "a soup", "no")]
CONFIG = TrainConfig(epochs=3)


def of(out: Path, rows: list[TrainingRow] = ROWS, **changes: Any) -> Run:
    return Run.of(rows, SCHEME, replace(CONFIG, **changes), out, None)


def begun(out: Path) -> Run:
    run = of(out)
    run.begin(ROWS, SCHEME)
    return run


def test_nothing_is_written_until_a_run_begins(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert of(out).before is None
    assert not out.exists()
    begun(out)
    assert sorted(path.name for path in out.iterdir()) == [".gitignore", "manifest.jsonl", "run.json", "scheme.json"]
    assert json.loads((out / "run.json").read_text())["status"] == "running"


def test_the_same_rows_and_options_go_on_with_the_epochs_that_were_added(tmp_path: Path) -> None:
    first = begun(tmp_path / "run")
    assert first.planned_epochs(CONFIG) == 3
    first.go_on(5)
    again = of(tmp_path / "run", micro_batch=1)  # which changes no step
    assert again.before is not None and again.ended is None
    assert again.identity == first.identity
    assert again.planned_epochs(CONFIG) == 5


@pytest.mark.parametrize("changes", [{"seed": 1}, {"rows": ROWS[:1]}])
def test_another_run_in_the_folder_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    begun(tmp_path / "run")
    with pytest.raises(OutputError, match="holds another run"):
        of(tmp_path / "run", **changes)


def test_a_run_that_has_ended_says_so_and_one_that_failed_is_tried_again(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    run.fail(RuntimeError("it burnt"), 3, CONFIG)
    failed = read_run(tmp_path / "run")
    assert failed is not None and (failed["status"], failed["reason"], failed["epochs"]) == ("failed", "it burnt", 3)
    again = of(tmp_path / "run")
    assert again.ended is None
    record = again.end({"steps": 7}, "done")
    assert "reason" not in record
    assert of(tmp_path / "run").ended == record


def test_what_is_no_run_or_one_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("milk")
    with pytest.raises(OutputError, match="holds no run of this program"):
        of(tmp_path / "notes")
    (tmp_path / "empty").mkdir()
    assert read_run(tmp_path / "empty") is None
    begun(tmp_path / "old")
    run = json.loads((tmp_path / "old" / "run.json").read_text())
    write_json(tmp_path / "old" / "run.json", run | {"schema": min(GOES_ON) - 1})
    with pytest.raises(OutputError, match="a run of another version"):
        of(tmp_path / "old")


def test_without_the_salt_of_its_scheme_a_run_does_not_go_on(tmp_path: Path) -> None:
    begun(tmp_path / "run")
    SCHEME.save(tmp_path / "run" / "scheme.json")
    with pytest.raises(SchemeError, match="not the scheme of a training"):
        of(tmp_path / "run")


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ({"status": "running"}, "was interrupted; run the same command again"),
        ({"status": "failed", "reason": "step 3 burnt"}, "failed: step 3 burnt"),
        ({"status": "unlearned", "reason": "it leaks"}, "it leaks. To load it all the same, give --allow-unlearned"),
        ({"status": "weak"}, "'weak' is not known to this version"),
    ],
)
def test_a_run_without_a_model_that_may_serve_is_refused(run: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        refuse_unfinished(Path("run"), run, allow_unlearned=False)


def test_a_model_that_may_serve_is_not_refused() -> None:
    refuse_unfinished(Path("run"), {"status": "done"}, allow_unlearned=False)
    refuse_unfinished(Path("run"), {"status": "unlearned", "reason": "it leaks"}, allow_unlearned=True)
