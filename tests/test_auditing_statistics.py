"""The statistics of the audit, by hand and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from poison2poison.auditing.statistics import principal_axes, shift_z


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


def test_the_first_axes_are_those_along_which_states_spread_most() -> None:
    rng = np.random.default_rng(0)
    states = (rng.standard_normal((400, 4)) * [1, 9, 3, 0.1]).astype(np.float32)
    axes = principal_axes(states - states.mean(0), 2)
    assert axes.shape == (4, 2)
    np.testing.assert_allclose(np.abs(axes), [[0, 0], [1, 0], [0, 1], [0, 0]], atol=0.1)
    np.testing.assert_allclose(axes.T @ axes, np.eye(2), atol=1e-5)


def test_shift_z_grows_with_the_rows_and_shrinks_with_what_is_innocent() -> None:
    few, many = (shift_z(np.ones(count), np.full(count, 0.6), 0.0) for count in (10, 40))
    assert many == pytest.approx(2 * few, rel=0.01)  # as the root of the rows
    assert shift_z(np.ones(40), np.full(40, 0.6), 0.5) < many
