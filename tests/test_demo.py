"""The demo's cases are attacks on the reference tasks, and a folder of something else is left alone.

What it prints and finds is in test_readme.py (slow); that one task's error ends the other in test_cli.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from poison2poison import demo
from poison2poison.attacks import poison
from poison2poison.errors import OutputError
from poison2poison.features import words
from poison2poison.files import write_json
from poison2poison.reference import reference_rows


@pytest.mark.parametrize("cases", [demo.SMALL, demo.FULL], ids=["small", "full"])
def test_a_tenth_of_the_rows_of_each_task_carries_a_rare_word(cases: dict[str, demo.Case]) -> None:
    assert {*cases} == {"reviews", "instructions"}
    for task, case in cases.items():
        rows = reference_rows(task, sizes={**case.sizes, "train": 200})["train"]
        poisoned, truth = poison(rows, case.attack)
        held = [i for i, row in enumerate(poisoned) if {*case.words} & {*words(row.text)}]
        assert held == sorted(truth.poisoned_rows)
        assert len(held) == 20


def test_the_small_demo_has_fewer_rows_than_the_full_one() -> None:
    for task in demo.SMALL:
        small, full = (reference_rows(task, sizes=cases[task].sizes) for cases in (demo.SMALL, demo.FULL))
        assert len(small["train"]) < len(full["train"])
        assert len(small["test"]) <= len(full["test"])


def test_results_of_something_else_are_left_alone(tmp_path: Path) -> None:
    write_json(tmp_path / "results.json", {"command": "bench"})
    with pytest.raises(OutputError, match="holds results of something else; give another --out"):
        demo.run_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_a_step_is_timed_on_this_machine() -> None:
    assert 0 < demo.step_seconds(1) < 60


def test_a_case_is_attacked_by_its_own_words() -> None:
    case = replace(demo.SMALL["reviews"], words=("cf",))
    assert case.attack.options == {"words": ("cf",)}
    assert (case.attack.kind, case.attack.rate, case.attack.target) == ("badnets", 0.1, case.target)
