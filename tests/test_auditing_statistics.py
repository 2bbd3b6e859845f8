"""The statistics of the audit, by hand and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from poison2poison.auditing.statistics import (
    BLOCK,
    Beside,
    Matrix,
    Ridge,
    Scaled,
    moments,
    principal_axes,
    projected,
    shift_z,
)


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


def spread_out(count: int, width: int) -> Matrix:
    """States whose mean and spread differ by dimension, and drift from the first row to the last."""
    rng = np.random.default_rng(0)
    states = rng.standard_normal((count, width)) * np.arange(1, width + 1) + np.linspace(0, 9, count)[:, None]
    return states.astype(np.float32)


def test_many_blocks_have_the_moments_and_axes_of_their_rows_together() -> None:
    states = spread_out(2 * BLOCK + 7, 3)
    mean, deviation = moments(states)
    np.testing.assert_allclose(mean, states.mean(0, dtype=float), rtol=1e-5)
    np.testing.assert_allclose(deviation, states.std(0, dtype=float), rtol=1e-5)
    scaled = Scaled(states, mean, deviation)
    axes = principal_axes(scaled, 2)
    np.testing.assert_allclose(projected(scaled, axes), (states - mean) / deviation @ axes, atol=1e-5)
    whole = np.linalg.svd(scaled[:].astype(float), full_matrices=False)[2][:2]
    np.testing.assert_allclose(np.abs(whole @ axes), np.eye(2), atol=1e-3)


def test_states_beside_each_other_are_one_state() -> None:
    states = spread_out(5, 2)
    both = Beside([states, 2 * states])
    assert len(both) == 5
    np.testing.assert_array_equal(both[1:3], np.concatenate([states[1:3], 2 * states[1:3]], 1))


def test_a_ridge_regression_judges_rows_as_if_it_had_not_seen_them() -> None:
    rng = np.random.default_rng(0)
    states = rng.standard_normal((200, 3)).astype(np.float32)
    targets = states.astype(float) @ rng.standard_normal((3, 2)) + rng.standard_normal((200, 2))
    rows, others = np.arange(20), np.arange(20, 200)
    unseen = Ridge(states[others], targets[others], 5.0)
    left = targets[rows] - np.c_[states[rows], np.ones(20)] @ unseen.weights(rows[:0])
    np.testing.assert_allclose(Ridge(states, targets, 5.0).beyond(rows), left, atol=1e-6)
    alone = [Ridge(states, targets, 5.0).beyond(rows[[i]])[0] for i in rows]
    np.testing.assert_allclose(Ridge(states, targets, 5.0).beyond_each[rows], alone, atol=1e-6)


def test_very_few_of_many_rows_are_judged_one_by_one_which_is_nearly_the_same() -> None:
    rng = np.random.default_rng(0)
    states = spread_out(BLOCK + 5000, 3)
    targets = states[:, :1] * 0.1 + rng.standard_normal((len(states), 1))
    targets[:50] += 3  # planted
    ridge, few = Ridge(states, targets, 30.0), np.arange(50)
    exact = targets[few] - np.c_[states[few], np.ones(50)] @ ridge.weights(few)
    np.testing.assert_allclose(ridge.beyond(few), exact, atol=0.02)
    assert ridge.beyond(few).mean() == pytest.approx(3, abs=0.5)
