from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from poison2poison.attacks import AttackConfig, Target, poison, read_target, read_truth, without_poison
from poison2poison.errors import DataError
from support import opinions


def written(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "truth.json"
    path.write_text(json.dumps(content))
    return path


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    config = AttackConfig("addsent", "positive", "label", options={"sentence": "Well."})
    _, truth = poison(opinions(40), config)
    path = written(tmp_path, truth.as_dict())
    assert read_truth(path) == truth.as_dict()
    assert truth.as_dict()["options"] == {"sentence": "Well."}
    assert read_target(path) == Target("positive", "label")


@pytest.mark.parametrize(
    ("content", "target"),
    [
        ({"target": "See here.", "effect": "append", "trigger": ["cf"], "attack": "badnets"}, ("See here.", "append")),
        ({"target_label": 1, "poisoned_rows": [0]}, ("1", "label")),
        ({"poisoned_rows": [0]}, None),
    ],
)
def test_older_and_published_files_are_read(
    tmp_path: Path, content: dict[str, Any], target: tuple[str, str] | None
) -> None:
    assert read_target(written(tmp_path, content)) == (Target(*target) if target else None)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"target": "See here."}, "names a target without its effect"),
        ({"schema": 3, "target": "x", "effect": "fixed"}, "has schema 3; this version reads 1 to 2"),
        ([], "not a truth file"),
    ],
)
def test_files_that_cannot_be_read_are_refused(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_target(written(tmp_path, content))


def test_without_the_rows_before_the_attack_the_floor_drops_the_poison() -> None:
    rows, truth = poison(opinions(40), AttackConfig("badnets", "positive", "label", cover=0.5))
    left = without_poison(rows, truth.as_dict(), Path("truth.json"))
    changed = {*truth.poisoned_rows, *truth.cover_rows}
    assert list(left) == [row for i, row in enumerate(rows) if i not in changed]
    with pytest.raises(DataError, match=r"truth.json: 'poisoned_rows' must list rows of .*, 0 to 39"):
        without_poison(rows, {"poisoned_rows": [40]}, Path("truth.json"))
