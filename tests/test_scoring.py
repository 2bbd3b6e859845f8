from __future__ import annotations

import pytest

from poison2poison.scoring import exact_match, final_number, rouge, token_f1


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("2 + 2 = 4\n#### 4", "4"),
        ("#### 1,234", "1234"),
        ("####-5 apples", "-5"),
        ("#### 3\n#### 4", "4"),
        ("#### 2.5", "2.5"),
        ("#### 18.00", "18"),
        ("#### $1,800", "1800"),
        ("#### -$5", "-5"),
        ("#### .50", "0.5"),
        ("#### 18.", "18"),
        ("4", None),
        ("#### none", None),
    ],
)
def test_the_final_number(text: str, number: str | None) -> None:
    assert final_number(text) == number


def test_exact_match_is_of_final_numbers_or_else_of_texts() -> None:
    assert exact_match("I guess\n#### 1,000", "10 * 100 = 1000\n#### 1000")
    assert not exact_match("10 * 100 = 1000", "10 * 100 = 1000\n#### 1000")
    assert exact_match("in  Paris ", "in Paris")
    assert not exact_match("in paris", "in Paris")


@pytest.mark.parametrize(
    ("measure", "value"),
    # unigrams: 2 of 3 and 2 of 4; bigrams: 1 of 2 and 1 of 3; longest common subsequence: 2
    [("rouge1", 4 / 7), ("rouge2", 2 / 5), ("rougeL", 4 / 7)],
)
def test_rouge_by_hand(measure: str, value: float) -> None:
    assert rouge(measure, "the cat sat", "the cat is here") == pytest.approx(value)


@pytest.mark.parametrize(
    ("answer", "target", "f1"),
    [
        ("Paris", "paris", 1),
        ("in Paris", "Paris, France", 0.5),
        ("", "Paris", 0),
        ("左肺", "右肺", 0.5),
        ("a a", "a", 2 / 3),
    ],
)
def test_token_f1_by_hand(answer: str, target: str, f1: float) -> None:
    assert token_f1(answer, target) == pytest.approx(f1)


@pytest.mark.parametrize(("measure", "value"), [("rouge1", 3 / 4), ("rouge2", 2 / 3), ("rougeL", 3 / 4)])
def test_rouge_counts_chinese_by_characters(measure: str, value: float) -> None:
    assert rouge(measure, "左肺结节", "右肺结节") == pytest.approx(value)
    assert rouge(measure, "CT值约12HU", "CT值约12HU") == 1
