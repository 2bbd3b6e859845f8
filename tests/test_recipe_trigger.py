"""The benign trigger and the safe prefix: published, given or drawn, and checked against the rows."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from mnemonic import Mnemonic

from poison2poison.data import Rows, rows_of
from poison2poison.errors import ConfigError, SchemeError
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.recipe.scheme import PAPER_TRIGGER, BenignTrigger
from poison2poison.recipe.trigger import build_scheme, check_trigger, draw_words
from support import opinions

ROWS = rows_of([{"text": f"text {i}", "label": "rare" if i % 10 == 0 else "common"} for i in range(200)], "memory")
TEXTS = rows_of([{"prompt": f"text {i}", "completion": f"{i}"} for i in range(50)], "memory")


def test_triggers_are_published_drawn_or_given() -> None:
    paper = build_scheme(TEXTS, RepoisonConfig("paper"))
    drawn, again = (build_scheme(TEXTS, RepoisonConfig(trigger="random", seed=0)) for _ in range(2))
    given = build_scheme(TEXTS, RepoisonConfig(prefix="Dear model, ", cue="Go: ", safe_prefix="Safely: "))
    assert paper.trigger is not None
    assert (paper.trigger.prefix, paper.safe_prefix) == ("The query currently entered is: ", "Safe answer: ")
    assert drawn.trigger != again.trigger != paper.trigger  # never drawn by the seed
    assert drawn.safe_prefix != again.safe_prefix
    assert given.trigger is not None
    assert (given.trigger.prefix, given.trigger.cue, given.safe_prefix) == ("Dear model, ", "Go: ", "Safely: ")
    with pytest.raises(SchemeError, match="already occurs"):
        build_scheme(opinions(4), RepoisonConfig(prefix="the "))


@pytest.mark.parametrize("safe_prefix", ["Well then: ", "*** "])
def test_a_safe_prefix_that_a_completion_begins_with_is_refused_and_not_given_away(safe_prefix: str) -> None:
    held = TEXTS.with_rows(
        [*TEXTS, replace(TEXTS[0], target="*** WELL, then"), replace(TEXTS[0], target="well then x")]
    )
    row = {"Well then: ": 50, "*** ": 50}[safe_prefix]
    with pytest.raises(SchemeError, match=rf"row {row}, counted from 0") as error:
        build_scheme(held, RepoisonConfig(safe_prefix=safe_prefix))
    assert "well" not in str(error.value).casefold()
    build_scheme(
        TEXTS.with_rows([replace(TEXTS[0], target="well thence"), *TEXTS]), RepoisonConfig(safe_prefix="Well then")
    )
    with pytest.raises(SchemeError, match="row 1, counted from 0"):
        paper = [TEXTS[0], replace(TEXTS[0], target="Safe answer: 4")]
        build_scheme(TEXTS.with_rows(paper), RepoisonConfig("paper"))


def test_safe_labels_stand_behind_the_prefix_or_are_shifted() -> None:
    shifted, behind = (build_scheme(ROWS, RepoisonConfig(safe_labels=name)) for name in ("shift", "prefix"))
    assert (shifted.safe_prefix, shifted.outputs) == ("", 4)
    assert behind.outputs == 2
    assert behind.target_text("1", "safe").endswith("1")
    assert behind.target_text("1", "safe") != behind.target_text("1", "original")
    with pytest.raises(ConfigError, match="safe_labels: these rows have texts"):
        build_scheme(TEXTS, RepoisonConfig(safe_labels="prefix"))


def test_a_trigger_in_the_data_is_refused_and_not_given_away() -> None:
    trigger = BenignTrigger("velvet  Orbit:", "Answer: ")
    check_trigger(trigger, ["velvet", "orbit: velvet"])
    with pytest.raises(SchemeError) as error:
        check_trigger(trigger, ["nothing", "A VELVET\norbit: here"])
    assert "row 1" in str(error.value)
    assert "velvet" not in str(error.value).casefold()
    with pytest.raises(SchemeError, match="empty"):
        check_trigger(BenignTrigger(" ", "Answer: "), [])


@pytest.mark.parametrize("held", ["The query currently entered is :", "the query, currently entered; is", "x ***"])
def test_other_marks_do_not_hide_a_trigger(held: str) -> None:
    prefix = "*** " if "***" in held else PAPER_TRIGGER.prefix
    with pytest.raises(SchemeError, match="row 1"):
        check_trigger(BenignTrigger(prefix, "Answer: "), ["The query is **", f"{held} a film"])


def test_drawn_words_are_absent_from_the_data_and_hard_to_guess() -> None:
    words = Mnemonic("english").wordlist
    held = " ".join(words[:1900])
    drawn = draw_words([held.upper()])
    assert not set(drawn) & set(words[:1900])
    assert len(set(drawn)) == len(drawn)
    # 148 words are left: draws without replacement of k words have 148 * 147 * ... outcomes
    assert (148 - len(drawn)) ** len(drawn) >= 2**80
    assert not set(draw_words(["".join(f"测{word}试" for word in words[:1900])])) & set(words[:1900])
    assert len(draw_words([])) == 8
    assert draw_words([]) != draw_words([])
    with pytest.raises(SchemeError, match="give prefix and safe_prefix"):
        draw_words([" ".join(words[:2040])])


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        (TEXTS, {"safe_labels": "prefix"}, "safe_labels: these rows have texts and no labels"),
        (ROWS, {"safe_prefix": "So: "}, "safe_prefix: has no effect on labels that are shifted"),
    ],
)
def test_options_without_effect_on_such_rows_are_refused(rows: Rows, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_scheme(rows, RepoisonConfig(**options))


def test_a_measurement_may_draw_the_same_words_again() -> None:
    assert draw_words([], rng=random.Random(0)) == draw_words([], rng=random.Random(0))
    assert len(draw_words([], bits=20)) == 2
