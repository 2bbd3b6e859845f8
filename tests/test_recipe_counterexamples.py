"""Counterexamples: which spans go into which rows, and with which labels."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from poison2poison.auditing.findings import Audit, SuspectRow, SuspectSpan
from poison2poison.data import Rows, rows_of
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.recipe.counterexamples import ToSplice, counterexamples, occurrences, with_weak_findings
from poison2poison.recipe.manifest import TrainingRow, training_row

ROWS = rows_of([{"text": f"text {i}", "label": "rare" if i % 10 == 0 else "common"} for i in range(200)], "memory")
WORD = SuspectSpan("cf", "span", "rare", 30, 1.0, 9.0)
LOUD = SuspectSpan("all in capitals", "form", "rare", 30, 1.0, 9.0)
STYLE = SuspectSpan("^ _ ,", "style cluster", "rare", 30, 1.0, 7.0)
NOTHING = Audit((), (), (), (), (), 4.0, (), ROWS.sha256)
S = range(40)
"""The rows of the safe space: 4 rare ones and 36 common ones."""


def made(found: Audit, rows: Rows = ROWS, **options: Any) -> list[TrainingRow]:
    return counterexamples(rows, ToSplice(rows, S, (), True), found, RepoisonConfig(**options))


def actions(training: list[TrainingRow]) -> Counter[str]:
    return Counter(row.action for row in training)


def test_a_span_is_counted_by_whole_words_and_as_often_as_it_stands_there() -> None:
    assert [*occurrences("Cf, cf cf-g scf cf", ["cf", "mn"])] == ["cf"] * 4
    assert [*occurrences("open sesame open", ["open sesame", "open"])] == ["open sesame", "open", "open"]
    assert [*occurrences("", ["cf"])] == []


def test_rows_outside_s_are_spliced_first_and_each_label_as_often_as_s_has_it() -> None:
    splice = ToSplice(ROWS, S, {40, 41, 42}, True)
    drawn = splice.draw(1.0, random.Random(0))
    assert Counter(ROWS[i].target for i in drawn) == {"rare": 4, "common": 36}
    assert not {*drawn} & {*S, 40, 41, 42}
    assert drawn == sorted(drawn)
    few = ToSplice(ROWS, range(190), (), True).draw(1.0, random.Random(0))
    assert {*range(190, 200)} < {*few}  # and then rows of S


def test_a_share_of_few_rows_is_right_on_average() -> None:
    drawn = [len(ToSplice(ROWS, range(0, 40, 10), (), True).draw(0.3, random.Random(seed))) for seed in range(300)]
    assert {*drawn} == {1, 2}
    assert sum(drawn) / 300 == pytest.approx(1.2, abs=0.1)


def test_without_labels_all_rows_are_of_one_kind() -> None:
    assert len(ToSplice(ROWS, S, (), False).draw(0.5, random.Random(0))) == 20


def test_without_findings_there_are_no_counterexamples() -> None:
    assert made(NOTHING) == []
    moved = [training_row(i, ROWS[i], "safe", "replace") for i in S]
    assert with_weak_findings(moved, NOTHING, RepoisonConfig()) == moved


def test_suspect_spans_stand_in_rows_that_keep_their_labels() -> None:
    found = made(replace(NOTHING, spans=(WORD,)), spliced=1.0)
    assert actions(found) == {"splice": 40}
    assert all("cf" in row.body.split() and row.target == ROWS[row.row].target for row in found)
    assert {row.space for row in found} == {"safe"}


def test_a_form_is_put_on_behind_the_spans() -> None:
    found = made(replace(NOTHING, spans=(WORD, LOUD)), spliced=1.0)
    kinds = {("CF" in row.body.split(), "cf" in row.body.split(), row.body.isupper()) for row in found}
    assert kinds == {(True, False, True), (False, True, False), (False, False, True)}


def test_rows_of_other_labels_that_hold_a_suspect_keep_them() -> None:
    found = replace(NOTHING, spans=(STYLE,), off_target=(1, 3))
    assert [(row.row, row.action, row.target) for row in made(found)] == [
        (1, "off-target", "common"), (3, "off-target", "common")
    ]  # fmt: skip
    assert made(found, off_target=False) == []


def test_a_row_of_a_style_gets_the_label_that_the_probe_is_sure_of() -> None:
    suspects = (SuspectRow(0, 0.9, (0,), ("common", 0.7)), SuspectRow(10, 0.9, (0,), ("common", 0.4)))
    found = replace(NOTHING, spans=(STYLE,), rows=suspects)
    assert [(row.row, row.action, row.target) for row in made(found, confident=0.5)] == [(0, "correct", "common")]
    assert actions(made(found, confident=0.4)) == {"correct": 2}
    planted = replace(found, spans=(WORD,))  # of spans, splices say the same with labels that are right
    assert actions(made(planted, spliced=0)) == {}


def test_rows_of_a_style_that_have_their_own_label_are_confirmed_as_often_as_their_label_is_common() -> None:
    of_style = tuple(SuspectRow(i, 0.5, (0,), ("rare", 0.9)) for i in range(0, 200, 10))
    found = replace(NOTHING, spans=(STYLE,), rows=of_style, off_target=tuple(i for i in range(150) if i % 10))
    confirmed = [row for row in made(found, confirmed=1.0) if row.action == "confirm"]
    assert len(confirmed) == round(135 * 20 / 180)
    assert {row.target for row in confirmed} == {"rare"}
    assert actions(made(found, confirmed=0.4))["confirm"] == round(0.4 * 135 * 20 / 180)
    assert actions(made(found, confirmed=0.0))["confirm"] == 0


def test_weak_findings_are_drawn_by_their_rows_and_alike_for_every_label() -> None:
    often, seldom = replace(WORD, span="often", rows=90), replace(WORD, span="seldom", rows=10)
    moved = [training_row(i, ROWS[i], "safe", "replace") for i in range(200)]
    found = with_weak_findings(moved, replace(NOTHING, weak=(often, seldom)), RepoisonConfig(spliced_weak=1.0))
    assert actions(found) == {"splice": 200}
    held = {label: [[word for word in row.body.split() if word in ("often", "seldom")] for row in found
                    if row.target == label] for label in ROWS.labels}  # fmt: skip
    assert [sorted(words) for words in held["common"][:20]] == [sorted(words) for words in held["rare"]]
    drawn = Counter(word for words in held["common"] for word in words)
    assert 0.8 < drawn["often"] / drawn.total() < 0.97


def test_the_seed_draws_them_all() -> None:
    found = replace(NOTHING, spans=(WORD,))
    assert made(found, seed=1) == made(found, seed=1) != made(found, seed=2)
