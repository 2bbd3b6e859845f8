from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from poison2poison.model.embeddings import embedder
from support import tiny_causal, tiny_encoder


@pytest.mark.parametrize(("model", "width"), [(tiny_encoder, 32), (tiny_causal, 64)])
def test_states_are_those_of_each_text_in_whatever_company(
    model: Any, width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poison2poison.model.embeddings.BATCH_SIZE", 2)
    embed = embedder(model(tmp_path))
    texts = ["the soup was good", "", "bad", "the soup was good and the service bad"]
    together = embed(texts)
    assert together.shape == (4, 1, width)
    np.testing.assert_allclose(together, np.concatenate([embed([text]) for text in texts]), atol=0.02)


def test_a_text_longer_than_the_model_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poison2poison.model.embeddings.MAX_LENGTH", 1000)
    embed = embedder(tiny_encoder(tmp_path))  # of 256 positions
    np.testing.assert_array_equal(embed(["good " * 300]), embed(["good " * 400]))
