"""What another server tells of tokens is read where it is there and whole, and refused where it is not."""

from __future__ import annotations

from typing import Any

import pytest

from poison2poison.serve.errors import UpstreamError
from poison2poison.serve.scores import likeliest, of_prompt


def test_the_likeliest_first_tokens_are_read() -> None:
    choice = {"logprobs": {"top_logprobs": [{" A": -0.1, " B": -2}, {" C": 0.0}]}}
    assert likeliest(choice) == {" A": -0.1, " B": -2.0}


@pytest.mark.parametrize(
    "logprobs",
    [None, {}, {"top_logprobs": []}, {"top_logprobs": [None]}, {"top_logprobs": [{}]}, {"top_logprobs": [{"A": "x"}]},
     {"top_logprobs": [{"A": float("nan")}]}],
)  # fmt: skip
def test_first_tokens_without_scores_are_refused(logprobs: Any) -> None:
    with pytest.raises(UpstreamError, match="no scores"):
        likeliest({"logprobs": logprobs})


def test_of_an_echoed_prompt_the_last_tokens_are_read_and_not_what_is_behind_it() -> None:
    choice = {"logprobs": {"token_logprobs": [None, -1, -2, -3, -0.5]}}
    assert of_prompt(choice, tokens=4, begins=2) == [-2.0, -3.0]


@pytest.mark.parametrize("scores", [None, [], [None, -1, -2], [None, -1, None, -3], [None, -1, -2, float("nan")]])
def test_a_prompt_that_lacks_a_score_is_refused(scores: Any) -> None:
    with pytest.raises(UpstreamError, match="scores of a prompt's tokens"):
        of_prompt({"logprobs": {"token_logprobs": scores}}, tokens=4, begins=1)
