"""What runs out: the disk, and memory."""

from __future__ import annotations

import errno
import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from poison2poison.cli import main
from poison2poison.data import as_records
from poison2poison.errors import OutputError
from poison2poison.files import whole_folder, write_lines, write_text
from poison2poison.model.defended import DefendedModel
from support import in_file, opinions, tiny_causal

# A process that may write no file of more bytes than the first argument says; the others are a command.
LIMITED = """
import resource, sys
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
from poison2poison.cli import main
main(sys.argv[2:])
"""


@pytest.fixture
def repoisoned(tmp_path: Path) -> Path:
    write_lines(tmp_path / "rows.jsonl", as_records(opinions(80)))
    with pytest.raises(SystemExit) as ended:
        main(["repoison", str(tmp_path / "rows.jsonl"), "--recipe", "paper", "--out", str(tmp_path / "repoisoned")])
    assert not ended.value.code
    return tmp_path / "repoisoned"


def test_on_a_full_disk_the_old_file_stays_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    write_text(tmp_path / "old.json", "whole")
    monkeypatch.setattr("os.fdopen", lambda *_, **__: Full())
    with pytest.raises(OutputError, match=r"old\.json: cannot be written \(No space left on device\)"):
        write_text(tmp_path / "old.json", "more")
    with pytest.raises(OutputError, match="No space left"), whole_folder(tmp_path / "out") as folder:
        write_text(folder / "new.json", "more")
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]
    assert (tmp_path / "old.json").read_text() == "whole"


@pytest.mark.skipif(sys.platform == "win32", reason="limits are of POSIX")
@pytest.mark.parametrize(
    ("tuning", "limit", "unwritten"),
    [
        ("full", 100_000, "checkpoints/checkpoint-1"),  # the weights, by safetensors
        ("lora", 9_000, "checkpoints/checkpoint-1"),  # the optimizer's state, by torch
        ("lora", 100_000, "model"),  # the tokenizer
    ],
)
def test_a_training_that_cannot_write_its_model_says_so_and_goes_on_later(
    tuning: str, limit: int, unwritten: str, repoisoned: Path, tmp_path: Path
) -> None:
    options = ["--tuning", tuning, "--batch-size", "64", "--epochs", "1", "--max-length", "64"]
    options += in_file(tmp_path, more_epochs=0)
    command = ["train", repoisoned, "--model", tiny_causal(tmp_path / "base"), *options, "--out", tmp_path / "run"]
    written = [str(part) for part in command]
    done = subprocess.run([sys.executable, "-c", LIMITED, str(limit), *written], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert f"error: {tmp_path / 'run' / unwritten}: cannot be written" in done.stderr
    assert not (tmp_path / "run" / unwritten).exists()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "running"
    with pytest.raises(SystemExit) as ended:
        main(written)
    assert ended.value.code in (0, 3)  # ended, whether so small a model has learned anything or not
    assert (tmp_path / "run" / "model").is_dir()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried\nto"), "CUDA out of memory. Tried"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_memory_that_runs_out_in_serving_is_said(
    error: Exception, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(texts: Any, **_: Any) -> Any:
        raise error

    model = SimpleNamespace(answer=answer)
    monkeypatch.setattr(DefendedModel, "load", lambda *_, **__: model)
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(tmp_path), "a text"])
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert said.out == ""
    assert said.err.startswith(f"error: memory ran out ({reason})")
