"""A folder of re-poisoned rows comes back as it was written, and what a hand has broken is refused by its line."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from poison2poison.data import Turn
from poison2poison.errors import DataError, OutputError, SchemeError
from poison2poison.recipe.manifest import TrainingRow
from poison2poison.recipe.repoisoned import read_repoisoned, write_repoisoned
from poison2poison.recipe.scheme import PAPER_TRIGGER, Scheme

SCHEME = Scheme("classification", ("no", "yes"), PAPER_TRIGGER)
ROWS = [
    TrainingRow(
        0, "safe", "replace", "a film\u2028of two lines\x85", "yes", (Turn("user", "a"),), (Turn("tool", "3"),)
    ),
    TrainingRow(1, "original", "keep", "", "no"),
]
ABOUT = {"recipe": {"recipe": "paper"}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_repoisoned(tmp_path / "rows", ROWS, SCHEME, ABOUT)
    return tmp_path / "rows"


def test_what_was_written_comes_back(folder: Path) -> None:
    assert read_repoisoned(folder) == (ROWS, SCHEME, ABOUT)


def test_what_tells_of_the_trigger_is_the_owners_alone(folder: Path) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) & 0o077 for path in folder.iterdir()}
    assert {name for name, mode in modes.items() if not mode} == {"rows.jsonl", "scheme.json"}
    assert {*(folder / ".gitignore").read_text().split()} == {"/rows.jsonl", "/scheme.json"}
    assert PAPER_TRIGGER.prefix not in (folder / "manifest.jsonl").read_text()


def test_a_folder_that_holds_something_is_left_alone(folder: Path) -> None:
    before = (folder / "rows.jsonl").read_bytes()
    with pytest.raises(OutputError, match="is not empty"):
        write_repoisoned(folder, ROWS[:1], SCHEME, ABOUT)
    assert (folder / "rows.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"space": "outer"}, r"rows.jsonl, line 2: space 'outer' is not one of safe, original"),
        ({"target": "maybe"}, "line 2: label 'maybe' is not in the scheme"),
        ({"body": 7}, "line 2: body is 7, and not a text"),
        ({"before": [{"role": "user"}]}, "not re-poisoned rows"),
        ({"before": 7}, "not re-poisoned rows"),
    ],
)
def test_a_line_that_a_hand_has_broken_is_refused(change: dict[str, Any], said: str, folder: Path) -> None:
    lines = (folder / "rows.jsonl").read_text(encoding="utf-8").split("\n")
    lines[1] = json.dumps(json.loads(lines[1]) | change)
    (folder / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError, match=said):
        read_repoisoned(folder)


@pytest.mark.parametrize("name", ["row", "space", "action", "body", "target"])
def test_a_row_needs_all_of_its_fields(name: str, folder: Path) -> None:
    record = json.loads((folder / "rows.jsonl").read_text(encoding="utf-8").split("\n")[0])
    del record[name]
    (folder / "rows.jsonl").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(DataError, match=rf"not re-poisoned rows \('{name}'\)"):
        read_repoisoned(folder)


@pytest.mark.parametrize(
    ("name", "error"), [("rows.jsonl", DataError), ("about.json", DataError), ("scheme.json", SchemeError)]
)
def test_a_missing_file_is_refused(name: str, error: type[Exception], folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(error, match=name if error is SchemeError else "not re-poisoned rows"):
        read_repoisoned(folder)
