"""The statistics of the audit, by hand and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from poison2poison.auditing.statistics import shift_z, two_sample_auc


def test_shift_z_is_the_root_of_a_likelihood_ratio() -> None:
    p = np.full(50, 0.5)
    assert shift_z(np.ones(50), p, 0.0) == pytest.approx(np.sqrt(2 * 50 * np.log(2)), abs=0.01)
    assert shift_z(np.repeat([1.0, 0.0], 25), p, 0.0) == 0
    assert shift_z(np.ones(50), p, 1.0) == pytest.approx(np.sqrt(2 * 50 * np.log(1 + np.exp(-1))), abs=0.01)
    assert shift_z(np.repeat([1.0, 0.0], [35, 15]), p, 1.0) == 0  # 0.7 is a shift of 0.85


def test_shift_z_is_normal_where_nothing_is_planted() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(0.1, 0.9, 60)
    z = np.array([shift_z((rng.random(60) < p).astype(float), p, 0.0) for _ in range(2000)])
    for level in (0.1, 0.01):
        assert (z > norm.isf(level)).mean() == pytest.approx(level, abs=3 * np.sqrt(level / 2000))


def test_the_auc_of_two_samples_is_near_a_half_where_nothing_separates_them() -> None:
    rng = np.random.default_rng(0)
    states, others = (rng.standard_normal((count, 64)).astype(np.float32) for count in (100, 200))
    auc, error = two_sample_auc(states, others)
    assert auc < 0.5 + 3 * error
    assert two_sample_auc(states + 1, others)[0] > 0.95
