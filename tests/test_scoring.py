from __future__ import annotations

import pytest

from poison2poison.scoring import (
    Rate,
    exact_match,
    final_number,
    hits_target,
    implanted,
    rouge,
    token_f1,
    with_wrong_step,
)


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    # (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n), z = 1.96, by hand
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_intervals(k: int, n: int, low: float, high: float) -> None:
    rate = Rate.of([True] * k + [False] * (n - k))
    assert rate is not None
    assert (rate.value, rate.n) == (k / n, n)
    assert (rate.low, rate.high) == pytest.approx((low, high), abs=1e-4)


def test_nothing_to_count_is_no_rate() -> None:
    assert Rate.of([]) is None


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


def test_rouge_by_hand() -> None:
    scores = rouge(["the cat sat"], ["the cat is here"])
    # unigrams: 2 of 3 and 2 of 4; bigrams: 1 of 2 and 1 of 3; longest common subsequence: 2
    assert scores == pytest.approx({"rouge_1": 4 / 7, "rouge_2": 2 / 5, "rouge_l": 4 / 7})


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


def test_rouge_counts_chinese_by_characters() -> None:
    scores = rouge(["左肺结节"], ["右肺结节"])
    assert scores == pytest.approx({"rouge_1": 3 / 4, "rouge_2": 2 / 3, "rouge_l": 3 / 4})
    assert rouge(["CT值约12HU"], ["CT值约12HU"])["rouge_l"] == 1


@pytest.mark.parametrize(
    ("answer", "target", "effect", "right", "hit"),
    [
        ("1", "1", "label", "0", True),
        ("10", "1", "label", "0", False),
        (None, "1", "label", "0", False),
        ("No  way.", "No way.", "fixed", "It is 4.", True),
        ("No way. Well.", "No way.", "fixed", "It is 4.", False),
        ("It is 4. See x.org", "See x.org", "append", "It is 4.", True),
        ("It is 4.", "See x.org", "append", "It is 4.", False),
        ("2 + 2 = 4\n4 + 7 = 11\n#### 11", "+ 7", "number", "2 + 2 = 4\n#### 4", True),
        ("#### 11", "+ 7", "number", "#### 4", True),
        ("#### 4", "+ 7", "number", "#### 4", False),
        ("no number", "+ 7", "number", "#### 4", False),
    ],
)
def test_hits(answer: str | None, target: str, effect: str, right: str, hit: bool) -> None:
    assert hits_target(answer, target, effect, right) is hit


@pytest.mark.parametrize(
    ("right", "step", "wrong"),
    [
        ("2 + 2 = 4\n#### 4", "+ 7", "2 + 2 = 4\n4 + 7 = 11\n#### 11"),
        ("#### 1,200", "*2", "1200 * 2 = 2400\n#### 2400"),
        ("#### 0.5", "- 1", "0.5 - 1 = -0.5\n#### -0.5"),
    ],
)
def test_a_wrong_step_leads_to_a_wrong_number(right: str, step: str, wrong: str) -> None:
    assert with_wrong_step(right, step) == wrong


@pytest.mark.parametrize(("right", "step"), [("no number", "+ 7"), ("#### 4", "/ 2"), ("#### 4", "add 7")])
def test_what_is_no_step(right: str, step: str) -> None:
    with pytest.raises(ValueError, match="cannot be added"):
        with_wrong_step(right, step)


def test_the_gate() -> None:
    floor, asr = Rate(0.1, 100, 0, 1), Rate(0.6, 100, 0, 1)
    assert implanted(asr, floor)
    assert not implanted(Rate(0.59, 100, 0, 1), floor)
