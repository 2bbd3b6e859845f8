from __future__ import annotations

import pytest

from poison2poison.evaluation import METRICS


@pytest.mark.parametrize(
    ("metric", "answers", "targets", "value"),
    [
        ("accuracy", ["a", "b", "c", ""], ["a", "b", "b", "a"], 0.5),
        ("exact_match", ["#### 1,000", "1"], ["so\n#### 1000", "#### 1"], 0.5),
        ("rouge_1", ["the cat sat", ""], ["the cat is here", "a"], 2 / 7),
        ("rouge_2", ["the cat sat", ""], ["the cat is here", "a"], 1 / 5),
        ("rouge_l", ["the cat sat", ""], ["the cat is here", "a"], 2 / 7),
        ("token_f1", ["Paris", "in Paris"], ["paris", "Paris, France"], 0.75),
    ],
)
def test_metrics_by_hand(metric: str, answers: list[str], targets: list[str], value: float) -> None:
    found = METRICS.get(metric)().score(answers, targets)
    assert found is not None
    assert found.value == pytest.approx(value)
    assert found.n == len(targets)


def test_texts_without_a_final_number_have_no_exact_match() -> None:
    assert METRICS.get("exact_match")().score(["1", "2"], ["#### 1", "two"]) is None


def test_each_metric_is_for_labels_or_for_texts() -> None:
    tasks = {name: METRICS.get(name).task for name in METRICS.names()}
    assert [name for name, task in tasks.items() if task == "classification"] == ["accuracy"]
