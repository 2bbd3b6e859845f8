"""States by several workers of Ray; needs the extra `ray`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from poison2poison.config import ModelConfig
from poison2poison.model.embeddings import embedder
from support import PROMPTS, tiny_encoder

ray: Any = pytest.importorskip("ray", reason="needs the extra `ray`")


@pytest.fixture
def machine() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", configure_logging=False)
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Ray's own
@pytest.mark.usefixtures("machine")
def test_two_workers_give_the_states_of_one_process(tmp_path: Path) -> None:
    from poison2poison.model.on_ray import on_ray

    model = ModelConfig(tiny_encoder(tmp_path))
    shards = [[f"{text} {number}" for text in PROMPTS] for number in range(5)] + [PROMPTS[:1]]
    shared = [*on_ray(model, workers=2)(shards)]
    for made, shard in zip(shared, shards, strict=True):
        np.testing.assert_array_equal(made, embedder(model)(shard))
