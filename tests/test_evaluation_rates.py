from __future__ import annotations

import pytest

from poison2poison.evaluation.rates import Mean, Rate, implanted


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
    assert Mean.of([]) is None


def test_means_by_hand() -> None:
    mean = Mean.of([0.0, 1.0, 0.5, 0.1])
    assert mean is not None
    assert mean.as_dict() == {"value": 0.4, "n": 4}


def test_the_gate() -> None:
    floor, asr = Rate(0.1, 100, 0, 1), Rate(0.6, 100, 0, 1)
    assert implanted(asr, floor)
    assert not implanted(Rate(0.59, 100, 0, 1), floor)
