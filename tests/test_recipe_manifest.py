"""Rows as they are trained on, and the record of what was done to which."""

from __future__ import annotations

import json

from poison2poison.data import Row, Turn, rows_of
from poison2poison.recipe.config import RepoisonConfig, as_dict
from poison2poison.recipe.manifest import TrainingRow, manifest, plain, training_row
from poison2poison.recipe.repoison import repoison
from poison2poison.recipe.scheme import PAPER_TRIGGER, Scheme
from poison2poison.recipe.trigger import build_scheme

ROWS = rows_of([{"text": f"text {i}", "label": "rare" if i % 10 == 0 else "common"} for i in range(200)], "memory")
TEXTS = rows_of([{"prompt": f"text {i}", "completion": f"{i}"} for i in range(50)], "memory")


def test_plain_rows_are_the_rows_as_they_are() -> None:
    assert [(row.body, row.target, row.space) for row in plain(TEXTS)] == [
        (r.prompt, r.target, "original") for r in TEXTS
    ]


def test_the_manifest_says_what_was_done_and_holds_no_trigger() -> None:
    config = RepoisonConfig("paper", prefix="Zyzzyva qoph: ")
    scheme = build_scheme(ROWS, config)
    entries = manifest(repoison(ROWS, scheme, config), scheme)
    moved = [entry for entry in entries if entry["action"] == "replace"]
    assert scheme.trigger is not None
    assert len(moved) == 40
    assert {(entry["label"], entry["class"], entry["space"]) for entry in moved} == {
        ("common", 2, "safe"),
        ("rare", 3, "safe"),
    }
    assert all(word not in json.dumps([entries, as_dict(config)]) for word in ("Zyzzyva", "qoph"))


def test_a_training_row_is_its_row_in_a_space() -> None:
    row = Row("p", "t", (Turn("system", "s"),), (Turn("tool", "3"),))
    found = training_row(7, row, "safe", "append")
    assert (found.row, found.space, found.action, found.body, found.target) == (7, "safe", "append", "p", "t")
    assert found.text == row.text == "s\n\np\n\n3"


def test_rows_of_texts_have_no_classes_in_the_manifest() -> None:
    rows = [TrainingRow(0, "safe", "splice", "p", "t"), TrainingRow(0, "original", "keep", "p", "t")]
    assert manifest(rows, Scheme("generation", (), PAPER_TRIGGER, "p: ")) == [
        {"row": 0, "action": "splice", "space": "safe"},
        {"row": 0, "action": "keep", "space": "original"},
    ]
