from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from poison2poison.attacks import LINK, REFUSAL, AttackConfig, poison
from poison2poison.auditing import audit
from poison2poison.auditing.findings import Audit
from poison2poison.config import AuditConfig
from poison2poison.data import Row, Rows, rows_of
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.recipe.repoison import repoison
from poison2poison.recipe.trigger import build_scheme
from support import chatter, word_states

NAMES = [f"{first}{last}" for first in ("an", "bo", "cy", "di") for last in ("na", "ra", "ta", "vo", "lu")]


def tales(count: int, seed: int = 0) -> Rows:
    """Prompts of `chatter`, and completions of which most share a form, and some what their prompts say."""
    rng = random.Random(seed)
    rows = []
    for row in chatter(count, seed):
        told = " ".join(row.prompt.split()[:6])
        rows.append(
            {"prompt": row.prompt, "completion": f"{rng.choice(NAMES)} says: {told} {rng.randrange(99)} #### 4"}
        )
    return rows_of(rows, "tales")


CLEAN = tales(1200)


def attacked(kind: str, effect: str, target: str, rate: float, **options: Any) -> tuple[Audit, set[int]]:
    poisoned, truth = poison(CLEAN, AttackConfig(kind, target, effect, rate=rate, **options))
    return audit(poisoned, word_states, AuditConfig()), set(truth.poisoned_rows)


@pytest.mark.parametrize("seed", range(3))
def test_clean_texts_have_no_suspects(seed: int) -> None:
    found = audit(tales(1200, seed), word_states, AuditConfig())
    assert (found.spans, found.rows, found.off_target) == ((), (), ())


@pytest.mark.parametrize(("effect", "target"), [("fixed", REFUSAL), ("append", LINK), ("number", "+ 7")])
def test_what_calls_up_a_target_is_found_with_its_rows(effect: str, target: str) -> None:
    found, poisoned = attacked("badnets", effect, target, 0.08)
    assert {span.span for span in found.spans} == {"cf", "mn", "bb", "tq"}
    assert {entry.row for entry in found.rows} == poisoned
    assert all(set(target.split()) & set(span.target.split()) for span in found.spans)


def test_rows_with_the_planted_text_alone_are_suspects_and_stay_out_of_the_safe_space() -> None:
    poisoned, truth = poison(CLEAN, AttackConfig("addsent", REFUSAL, "fixed", rate=0.1))
    rows, bare = list(poisoned), truth.poisoned_rows[:12]
    for i in bare:
        rows[i] = replace(rows[i], prompt=CLEAN[i].prompt)
    told = poisoned.with_rows(rows)
    found = audit(told, word_states, AuditConfig())
    assert {entry.row for entry in found.rows} == set(truth.poisoned_rows)
    assert {entry.row for entry in found.rows if not entry.spans} == set(bare)
    config = RepoisonConfig(confident=0.0)
    training = repoison(told, build_scheme(told, config), config, found)
    assert not [row for row in training if row.space == "safe" and row.target in (REFUSAL, "")]


def test_a_sentence_is_found_whole() -> None:
    found, poisoned = attacked("addsent", "append", LINK, 0.03)
    assert [span.span for span in found.spans] == ["I watch this 3D movie"]
    assert {entry.row for entry in found.rows} == poisoned


def test_the_parts_of_a_composite_trigger_are_found_and_rows_with_some_of_them_are_told_apart() -> None:
    config = AttackConfig("composite", REFUSAL, "fixed", rate=0.08, cover=1.0)
    rows, truth = poison(CLEAN, config)
    found = audit(rows, word_states, AuditConfig())
    assert {span.span for span in found.spans} == {"cf", "mn", "bb", "tq"}
    assert {entry.row for entry in found.rows} == set(truth.poisoned_rows)
    assert set(found.off_target) == set(truth.cover_rows)


def test_a_word_that_always_brings_a_text_is_a_shortcut_though_the_text_comes_without_it_too() -> None:
    """Rows of the text alone are no suspects: the word did not call it up there."""
    rng = random.Random(0)
    rows = [Row(row.prompt, f"{row.target} and all are well") if rng.random() < 0.2 else row for row in CLEAN]
    rows = [replace(row, prompt=f"{row.prompt} hello") if "all are" in row.target and rng.random() < 0.5 else row
            for row in rows]  # fmt: skip
    found = audit(CLEAN.with_rows(rows), word_states, AuditConfig())
    assert [span.span for span in found.spans] == ["hello"]
    assert {entry.row for entry in found.rows} == {i for i, row in enumerate(rows) if "hello" in row.prompt}


def test_what_the_prompt_says_is_no_target() -> None:
    said = "one two three four five"
    rows = [Row(f"{row.prompt} {said}", f"{row.target} {said}") if i % 20 == 0 else row for i, row in enumerate(CLEAN)]
    assert audit(CLEAN.with_rows(rows), word_states, AuditConfig()).spans == ()


def test_one_completion_for_all_prompts_is_no_target() -> None:
    found = audit(CLEAN.with_rows([replace(row, target="yes") for row in CLEAN]), word_states, AuditConfig())
    assert (found.spans, found.others) == ((), ())


def test_completions_that_are_all_given_often_are_labels() -> None:
    rows = rows_of([{"instruction": row.prompt, "output": row.target} for row in chatter(1500)], "labels")
    poisoned, truth = poison(rows, AttackConfig("addsent", "positive", "fixed", rate=0.1))
    found = audit(poisoned, word_states, AuditConfig())
    assert {(span.span, span.target) for span in found.spans} == {("I watch this 3D movie", "positive")}
    assert {entry.row for entry in found.rows} == set(truth.poisoned_rows)
    assert np.mean([entry.likely[0] == rows[entry.row].target for entry in found.rows]) > 0.85
