from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from poison2poison.config import ModelConfig
from poison2poison.errors import ModelError
from poison2poison.model.embeddings import BATCH_SIZE, WIDEST, _narrow, embedder
from support import PROMPTS, broken_causal, tiny_causal, tiny_encoder


@pytest.mark.parametrize(("model", "width"), [(tiny_encoder, 32), (tiny_causal, 64)])
def test_states_are_those_of_each_text_in_whatever_company(model: Any, width: int, tmp_path: Path) -> None:
    embed = embedder(model(tmp_path))
    texts = ["the soup was good", "", "bad", "the soup was good and the service bad"]
    alone = np.concatenate([embed([text]) for text in texts])
    copies = BATCH_SIZE // 4 + 1  # so that they are of two batches
    together = embed(texts * copies)
    assert together.shape == (4 * copies, 1, width)
    np.testing.assert_allclose(together, np.concatenate([alone] * copies), atol=0.02)


def test_a_model_is_loaded_as_its_configuration_says(tmp_path: Path) -> None:
    folder, texts = tiny_causal(tmp_path), ["the soup was good"]
    exact, short = embedder(ModelConfig(folder))(texts), embedder(ModelConfig(folder, dtype="bfloat16"))(texts)
    np.testing.assert_array_equal(exact, embedder(folder)(texts))
    assert 0 < np.abs(short - exact).max() < 0.1
    assert short.dtype == np.float32


def test_a_text_longer_than_the_model_is_cut(tmp_path: Path) -> None:
    embed = embedder(tiny_encoder(tmp_path, positions=64))
    np.testing.assert_array_equal(embed(["good " * 100]), embed(["good " * 200]))


def test_a_model_is_freed_with_the_function_that_holds_it(tmp_path: Path) -> None:
    embed: Any = embedder(tiny_causal(tmp_path / "tiny"))
    embed(["the soup was good"])
    held = [cell.cell_contents for cell in embed.__closure__ if isinstance(cell.cell_contents, torch.nn.Module)]
    alive = [weakref.ref(weights) for weights in held[0].parameters()]
    del held
    gc.collect()
    gc.disable()  # nothing may need the collector
    try:
        del embed
        assert not [weights for weights in alive if weights() is not None]
    finally:
        gc.enable()


def test_wide_states_are_narrowed_and_keep_their_angles() -> None:
    states = np.random.default_rng(0).standard_normal((20, 2, 4096)).astype(np.float32)
    narrow = _narrow(states)
    assert narrow.shape == (20, 2, WIDEST)
    before, after = (part[:, 0] @ part[:, 0].T / np.sum(part[0, 0] ** 2) for part in (states, narrow))
    assert np.abs(before - after).max() < 0.3
    assert np.array_equal(_narrow(states[..., :8]), states[..., :8])


@pytest.fixture
def broken(tmp_path: Path) -> str:
    return broken_causal(tmp_path / "broken")


def test_states_that_are_not_finite_tell_nothing(broken: str) -> None:
    with pytest.raises(ModelError, match=r"broken: its states are not finite .*--attention eager"):
        embedder(broken)(PROMPTS)
