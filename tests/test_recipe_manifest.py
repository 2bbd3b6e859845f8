"""Rows as they are trained on, and the record of what was done to which."""

from __future__ import annotations

import json

from poison2poison.data import rows_of
from poison2poison.recipe.config import RepoisonConfig, as_dict
from poison2poison.recipe.manifest import manifest, plain
from poison2poison.recipe.repoison import repoison
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
