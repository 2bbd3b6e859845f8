"""What finders are given: texts in one spacing, features, and states on axes of one scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from poison2poison.auditing.statistics import States
from poison2poison.data import Rows, rows_of
from poison2poison.features import Feature
from support import chatter, context_of, word_states


def framed(count: int) -> Rows:
    """Rows of one form around what they say."""
    texts = [f"Review:\t{row.prompt}\n Answer" for row in chatter(count)]
    return rows_of([{"text": text, "label": i % 2} for i, text in enumerate(texts)], "framed")


def test_texts_have_one_spacing_and_words_of_nearly_all_are_their_form() -> None:
    found = context_of(framed(200))
    assert found.texts[0].startswith("Review: ") and "\n" not in found.texts[0]
    assert {"review", "answer"} <= found.form
    assert not any(word.startswith(("good", "bad", "thing")) for word in found.form)


def test_spans_and_forms_are_asked_that_rows_enough_have() -> None:
    found = context_of(framed(200), min_rows=20)
    assert Feature("form", "a line break") in found.spans.names  # though the texts have none any more
    assert Feature("span", "answer") in found.spans.names
    assert min(np.asarray(found.spans.matrix.sum(0)).ravel()) >= 20
    assert {feature.kind for feature in found.patterns.names} <= {"first", "skeleton", "form"}
    fewer = context_of(framed(200), min_rows=60)
    assert len(fewer.spans.names) < len(found.spans.names)


def test_states_have_a_spread_of_one_on_average_on_a_quarter_as_many_axes_as_rows() -> None:
    found = context_of(chatter(120))
    assert found.states.shape == (120, 30)
    assert found.states.std(0).mean() == pytest.approx(1, abs=1e-3)
    spreads = found.states.std(0)
    assert spreads[0] == spreads.max()
    np.testing.assert_allclose(found.states.mean(0), 0, atol=1e-3)


def test_other_texts_lie_on_the_axes_of_the_prompts() -> None:
    rows = chatter(120)
    found = context_of(rows)
    np.testing.assert_allclose(found.embed([row.prompt for row in rows]), found.states, atol=1e-4)
    assert found.embed([]).shape == (0, 30)


def test_texts_of_another_kind_have_a_scale_of_their_own() -> None:
    found = context_of(chatter(120)).standardised([f"good{i} thing{i}" for i in range(50)])[:]
    assert found.shape == (50, 48)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(found.std(0), 1, atol=1e-2)


def test_a_dimension_that_says_nothing_is_no_error() -> None:
    def flat(texts: Sequence[str]) -> States:
        return np.concatenate([word_states(texts), np.ones((len(texts), 1, 2), np.float32)], 2)

    found = context_of(chatter(120), flat)
    assert np.isfinite(found.states).all()
    assert found.deep[:].shape == (120, 50)
    assert not found.deep[:][:, 48:].any()


def test_states_of_the_least_and_the_greatest_depth_have_scales_of_their_own() -> None:
    def deep(texts: Sequence[str]) -> States:
        states = word_states(texts)
        return np.concatenate([states, -states, 5 * states + 7], 1)

    found = context_of(chatter(120), deep)
    np.testing.assert_allclose(found.shallow[3:5], found.deep[3:5], atol=1e-3)
    np.testing.assert_allclose(found.shallow[:].std(0), 1, atol=1e-3)
