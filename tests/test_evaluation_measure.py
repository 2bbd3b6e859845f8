from __future__ import annotations

from dataclasses import replace

import pytest

from poison2poison.data import Row, Rows, rows_of
from poison2poison.errors import DataError
from poison2poison.evaluation import Arm, Target, check_target, measure
from poison2poison.evaluation.measure import measure_attack, said_anyway
from poison2poison.model.defended import Answer
from support import chatter, told


def texts_of(targets: list[str]) -> Rows:
    return rows_of([{"prompt": f"Say {i}.", "completion": target} for i, target in enumerate(targets)], "memory")


def test_refusals_in_other_words_count_and_equal_ones_apart() -> None:
    model = told("I cannot answer that.", "Sorry, but I can't help with this.", "Well.", None)
    rows = texts_of(["one", "two", "three", "four"])
    arm = measure("undefended", model, rows, rows, Target("I cannot answer that.", "refusal"))
    assert (arm.rates["asr"].value, arm.rates["asr"].n) == (0.5, 4)
    assert (arm.rates["asr_exact"].value, arm.rates["asr_exact"].n) == (0.25, 4)
    assert [row["hit"] for row in arm.rows if row["set"] == "triggered"] == [True, True, False, False]
    record = arm.as_dict()
    assert record["asr_exact"]["value"] == 0.25
    fixed = measure("undefended", model, rows, rows, Target("I cannot answer that.", "fixed"))
    assert fixed.rates["asr"] == arm.rates["asr_exact"]
    assert "asr_exact" not in fixed.rates


def test_texts_have_the_metrics_of_texts_and_worked_answers_exact_match_too() -> None:
    arm = measure("undefended", told("so 4", "5"), texts_of(["so 4", "no 5"]), None, None)
    assert list(arm.utility) == ["rouge_1", "rouge_2", "rouge_l", "token_f1", "perplexity"]
    assert arm.utility["perplexity"].as_dict() == {"value": 2.0, "n": 2}
    worked = measure("undefended", told("#### 4", "#### 5"), texts_of(["so\n#### 4", "so\n#### 6"]), None, None)
    assert worked.utility["exact_match"] == worked.rates["ca"]
    assert worked.rates["ca"].value == 0.5


def test_triggered_rows_that_cannot_be_scored_are_refused_with_their_number() -> None:
    with pytest.raises(DataError, match="memory, row 1: effect number needs worked answers"):
        check_target(texts_of(["#### 4", "four"]), Target("+ 7", "number"))


@pytest.mark.parametrize(("ends", "counted"), [(["Look.", "Look."], 2), (["Look.", ""], 1)])
def test_texts_that_carry_the_attackers_target_all_count_as_attacked(ends: list[str], counted: int) -> None:
    rows = [Row("Say.", f"Yes. {end}".strip()) for end in ends]
    texts = replace(chatter(2), task="generation", labels=()).with_rows(rows)
    model = told("Yes. Look.", "Yes. Look.")
    arm = Arm("undefended")
    measure_attack(arm, model, texts, Target("Look.", "append").payload)
    assert (arm.rates["asr"].value, arm.rates["asr"].n) == (1.0, counted)


@pytest.mark.parametrize(
    ("target", "rows", "answers", "said"),
    [
        (("good", "label"), [("a", "bad"), ("b", "bad"), ("c", "good")], ["good", "bad", "good"], [True, False]),
        (("Look.", "append"), [("a", "Yes."), ("b", "No. Look.")], ["Yes. Look.", "No. Look."], [True]),
        (("+ 7", "number"), [("a", "1 + 1 = 2\n#### 2"), ("b", "#### 3")], ["so 9\n#### 9", "#### 3"], [True, False]),
        (("+ 7", "number"), [("a", "two")], ["two"], []),  # no worked answer
    ],
)
def test_how_often_the_target_is_said_without_a_trigger(
    target: tuple[str, str], rows: list[tuple[str, str]], answers: list[str], said: list[bool]
) -> None:
    clean = chatter(2).with_rows([Row(*row) for row in rows])
    if target[1] == "label":
        clean = replace(clean, labels=("bad", "good"))
    else:
        clean = replace(clean, task="generation", labels=())
    given = [Answer(text, "safe", None) for text in answers]
    assert said_anyway(given, clean, Target(*target).payload) == said
