"""The figures of models as they stand in `results.json`: what was not measured is absent."""

from __future__ import annotations

import json
from pathlib import Path

from poison2poison.evaluation.rates import Mean
from poison2poison.evaluation.results import Arm, describe, results, set_floor, write_results
from poison2poison.evaluation.schema import SCHEMA
from support import opinions


def arm(name: str, asr: int | None = None) -> Arm:
    """A model that an attack has so many times of a hundred."""
    made = Arm(name)
    if asr is not None:
        made.put("asr", [True] * asr + [False] * (100 - asr))
    return made


def test_a_rate_of_nothing_is_not_entered() -> None:
    made = arm("undefended")
    made.put("ca", [True, True, False, True])
    made.put("alarm", [])
    assert {*made.rates} == {"ca"}
    assert made.as_dict()["ca"]["value"] == 0.75


def test_an_arm_says_what_was_measured_and_nothing_else() -> None:
    assert arm("undefended").as_dict() == {"name": "undefended"}
    made = Arm("p2p", implanted=False, training={"train_seconds": 2.5}, safe_space={"learned": True}, needs=("audit",))
    made.utility["perplexity"] = Mean(1.5, 4)
    assert made.as_dict() == {
        "name": "p2p", "utility": {"perplexity": Mean(1.5, 4).as_dict()}, "implanted": False,
        "safe_space": {"learned": True}, "needs": ["audit"], "train_seconds": 2.5,
    }  # fmt: skip


def test_the_floor_of_all_arms_is_the_asr_of_the_one_without_the_attack() -> None:
    arms = [arm("undefended", 90), arm("p2p", 10), arm("clean", 5)]
    set_floor(arms, arms[2])
    assert [one.rates["floor"].value for one in arms] == [0.05] * 3
    assert [one.implanted for one in arms] == [True] * 3


def test_an_attack_that_hardly_took_is_not_implanted() -> None:
    arms = [arm("undefended", 54), arm("clean", 5)]
    set_floor(arms, arms[1])
    assert [one.implanted for one in arms] == [False] * 2


def test_without_the_undefended_arm_nobody_knows_whether_the_attack_took() -> None:
    arms = [arm("p2p", 10), arm("clean", 5)]
    set_floor(arms, arms[1])
    assert [one.implanted for one in arms] == [None] * 2
    unmeasured = [arm("undefended"), arm("clean")]
    set_floor(unmeasured, unmeasured[1])
    assert not unmeasured[0].rates


def test_sets_are_told_by_source_size_and_hash() -> None:
    rows = opinions(8)
    assert describe(train=rows, dev=None) == {"train": {"source": "opinions", "rows": 8, "sha256": rows.sha256}}


def test_the_files_have_every_arm_and_every_test_row(tmp_path: Path) -> None:
    arms = [arm("undefended", 90), arm("p2p", 10)]
    for one in arms:
        one.rows = [{"set": "clean", "row": number} for number in range(3)]  # type: ignore[typeddict-item]
    content = results("defend", "opinions", "reference", 7, describe(test=opinions(8)), arms)
    write_results(tmp_path, content, arms)
    found = json.loads((tmp_path / "results.json").read_text())
    assert (found["schema"], found["command"], found["seed"], found["device"] > "") == (SCHEMA, "defend", 7, True)
    assert [one["name"] for one in found["arms"]] == ["undefended", "p2p"]
    assert found["versions"]["torch"]
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [(line["arm"], line["row"]) for line in lines] == [
        (name, i) for name in ("undefended", "p2p") for i in range(3)
    ]
