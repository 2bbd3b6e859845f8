"""States of shards of texts by several workers of a Ray cluster, or of this machine (extra `ray`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import ray
import torch

from poison2poison.auditing.statistics import States
from poison2poison.config import ModelConfig
from poison2poison.model.embeddings import embedder
from poison2poison.model.shards import Shards


class _Worker:
    """Has the model, once for all shards that it gets."""

    def __init__(self, model: ModelConfig) -> None:
        self.embed = embedder(model)

    def __call__(self, shard: dict[str, Any]) -> dict[str, Any]:
        return {"states": self.embed([*shard["texts"]])}


def on_ray(model: ModelConfig, workers: int) -> Shards:
    """A function for `shards.mapped` that shares shards out among workers: the states are those of one process.

    Args:
        model: Which model, and how it is loaded: every worker loads it, on a GPU of its own where there are any.
        workers: How many.
    """

    def states(shards: Iterable[Sequence[str]]) -> Iterator[States]:
        ray.data.DataContext.get_current().execution_options.preserve_order = True
        texts = [{"texts": [*shard]} for shard in shards]
        data = ray.data.from_items(texts, override_num_blocks=max(1, len(texts)))
        gpus = int(torch.cuda.is_available())
        for made in data.map(_Worker, fn_constructor_args=(model,), concurrency=workers, num_gpus=gpus).iter_rows():
            yield made["states"]

    return states
