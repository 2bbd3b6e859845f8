"""What was recorded at the end of a training, and what of it is still there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from poison2poison import cli
from poison2poison.config import TrainConfig
from poison2poison.data import as_records
from poison2poison.evaluation import describe
from poison2poison.export import export
from poison2poison.files import write_json, write_lines
from poison2poison.model.run import Run
from poison2poison.recipe.manifest import plain
from poison2poison.recipe.repoisoned import write_repoisoned
from poison2poison.recipe.scheme import PAPER_TRIGGER, Scheme
from support import opinions

SCHEME = Scheme("classification", ("negative", "positive"), PAPER_TRIGGER)
MODEL = {
    "adapter_model.safetensors": "weights",
    "adapter_config.json": "settings",
    "tokenizer.json": "tokenizer",
    "chat_template.jinja": "template",
}
Verify = Callable[..., tuple[int, str]]


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Verify:
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["verify", *map(str, arguments)])
            raise SystemExit(0)
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out + captured.err

    return run


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """A folder as a training leaves it, of files with any content."""
    rows, out = opinions(20), tmp_path / "run"
    run = Run.of(plain(rows), SCHEME, TrainConfig(epochs=1), out, None)
    run.begin(plain(rows), SCHEME)
    (out / "model").mkdir()
    for name in (*MODEL, "README.md"):
        (out / "model" / name).write_text(name)
    (out / "checkpoints").mkdir()
    (out / "checkpoints" / "state").write_text("is deleted later")
    run.end({"data": describe(train=rows)}, "done")
    shutil.rmtree(out / "checkpoints")
    return out


def test_a_folder_that_nobody_touched_is_what_was_recorded(artifact: Path, verify: Verify) -> None:
    code, said = verify(artifact)
    assert code == 0
    assert said.count("same") == len(MODEL) + 2  # scheme and manifest
    (artifact / "model" / "README.md").write_text("a better card")
    assert verify(artifact)[0] == 0


@pytest.mark.parametrize(
    ("file", "part", "follows"),
    [
        *((f"model/{name}", part, "") for name, part in MODEL.items()),
        ("scheme.json", "scheme", "safe space"),
        ("manifest.jsonl", "manifest", "answers are the same"),
    ],
)
def test_each_file_that_was_changed_is_named_with_what_follows(
    file: str, part: str, follows: str, artifact: Path, verify: Verify
) -> None:
    (artifact / file).write_text((artifact / file).read_text() + " ")
    code, said = verify(artifact)
    assert code == 1
    [line] = [line for line in said.splitlines() if "differs" in line]
    assert file in line
    assert f" {part} " in line
    assert follows in line
    (artifact / file).unlink()
    assert "missing" in verify(artifact)[1]


def test_a_file_that_was_put_beside_the_weights_is_named(artifact: Path, verify: Verify) -> None:
    (artifact / "model" / "modeling.py").write_text("print()")
    code, said = verify(artifact)
    assert code == 1
    [line] = [line for line in said.splitlines() if "added" in line]
    assert "model/modeling.py" in line
    assert "delete it unless you know it" in line


def test_rows_are_held_against_those_of_the_training(artifact: Path, tmp_path: Path, verify: Verify) -> None:
    write_lines(tmp_path / "rows.jsonl", as_records(opinions(20)))
    assert verify(artifact, "--rows", tmp_path / "rows.jsonl")[0] == 0
    others = as_records(opinions(20, seed=1))
    for different in (others, as_records(opinions(20))[::-1]):
        write_lines(tmp_path / "rows.jsonl", different)
        code, said = verify(artifact, "--rows", tmp_path / "rows.jsonl")
        assert code == 1
        assert "the training was on other rows, or on these in another order" in said


def test_an_older_folder_has_nothing_recorded(artifact: Path, verify: Verify) -> None:
    record = json.loads((artifact / "run.json").read_text())
    del record["files"]
    write_json(artifact / "run.json", record | {"schema": 3})
    code, said = verify(artifact)
    assert code == 3
    assert said.count("not recorded") == len(MODEL) + 2


def test_an_older_run_of_the_same_rows_still_goes_on(artifact: Path) -> None:
    record = json.loads((artifact / "run.json").read_text())
    write_json(artifact / "run.json", record | {"schema": 3})
    assert Run.of(plain(opinions(20)), SCHEME, TrainConfig(epochs=1), artifact, None).ended


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"schema": 4}, "no record of an artifact"),
        ({"schema": 4, "status": "running"}, "was interrupted"),
        ({"schema": 4, "status": "done", "files": ["a"]}, "no record of an artifact"),
        ({"schema": 4, "status": "done", "files": {"/": "a"}}, "'/' is no hash of a file of this folder"),
        ({"schema": 4, "status": "done", "files": {"../a": "a"}}, "'../a' is no hash"),
        ([], "no record of an artifact"),
    ],
)
def test_what_is_no_record_is_refused(record: Any, said: str, tmp_path: Path, verify: Verify) -> None:
    (tmp_path / "run.json").write_text(json.dumps(record))
    code, message = verify(tmp_path)
    assert code == 2
    assert said in message


def test_a_folder_without_a_record_is_refused_with_what_would_have_one(tmp_path: Path, verify: Verify) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        code, message = verify(folder)
        assert code == 2
        assert f"{folder}: holds neither run.json (`p2p train`) nor export.json (`p2p export`)" in message


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    rows = opinions(20)
    write_repoisoned(tmp_path / "rows", plain(rows), SCHEME, describe(train=rows))
    export(tmp_path / "rows", "openai", TrainConfig("no-such-model"), tmp_path / "mine")
    return tmp_path / "mine"


def test_the_files_of_an_export_are_recorded_too(exported: Path, verify: Verify) -> None:
    (exported / "trained").mkdir()  # by the trainer
    (exported / "trained" / "adapter.bin").write_text("new")
    assert verify(exported)[0] == 0
    [rows] = [path for path in exported.glob("*.jsonl") if path.name != "manifest.jsonl"]
    rows.write_text(rows.read_text() + "\n")
    code, said = verify(exported)
    assert code == 1
    assert "the trainer may be given other rows or settings" in said


@pytest.mark.parametrize("file", ["scheme.json", "manifest.jsonl"])
def test_an_older_export_is_known_by_its_seals(file: str, exported: Path, verify: Verify) -> None:
    record = json.loads((exported / "export.json").read_text())
    del record["files"]
    write_json(exported / "export.json", record | {"schema": 1})
    assert verify(exported)[0] == 0
    text = (exported / file).read_text()
    (exported / file).write_text(text.replace("positive", "pleased"))
    assert verify(exported)[0] == 1
