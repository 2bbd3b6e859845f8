"""States of many texts: made shard by shard, and kept in a memory map, so that an interruption costs one shard."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from shutil import rmtree

import numpy as np
from tqdm import tqdm

from poison2poison.auditing.statistics import Embed, States
from poison2poison.config import ModelConfig
from poison2poison.files import versions, writing

SHARD = 1 << 14
"""Texts that go through a model before anything is written: half a minute to some minutes of work."""
Shards = Callable[[Iterable[Sequence[str]]], Iterable[States]]
"""Gives the states of each shard of texts, in their order."""


def about(model: ModelConfig) -> str:
    """What states depend on besides the texts: how the base model is loaded, and versions."""
    loaded = {field.name: getattr(model, field.name) for field in fields(ModelConfig)}
    return json.dumps([loaded, versions()])


def mapped(embed: Embed, folder: Path, made_by: str, of_shards: Shards | None = None) -> Embed:
    """An embedder that keeps the states of more than one shard of texts in a folder, and goes on with those there.

    Args:
        embed: Gives the states of texts, shape (texts, depths, width).
        folder: Where the files go, each known by its texts and by what made it; it need not exist.
        made_by: What states depend on besides the texts (`about`).
        of_shards: Gives them of shards, such as `on_ray`; by default `embed`, one after another.

    Returns:
        A function as `embed`, which gives a memory map of many texts. It raises an OutputError where it cannot write.
    """

    def states(texts: Sequence[str]) -> States:
        if len(texts) <= SHARD:
            return embed(texts)
        path = folder / f"{_digest(made_by, texts)}.npy"
        with writing(path):
            folder.mkdir(parents=True, exist_ok=True)
            _fill(path, texts, of_shards or partial(map, embed))
        filled: States = np.load(path, mmap_mode="r")
        return filled

    return states


@contextmanager
def kept_beside(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out` for states, which goes when all is done, and stays where something went wrong."""
    folder = out.resolve().with_name(f".{out.resolve().name}.states")
    yield folder
    rmtree(folder, ignore_errors=True)


def _digest(made_by: str, texts: Sequence[str]) -> str:
    digest = hashlib.sha256(made_by.encode())
    for text in texts:
        digest.update(json.dumps(text).encode())
    return digest.hexdigest()


def _fill(path: Path, texts: Sequence[str], of_shards: Shards) -> None:
    """Append the states of the shards that the file lacks. Nothing is mapped yet: a full disk is an error, no crash."""
    shards = [texts[start : start + SHARD] for start in range(0, len(texts), SHARD)]
    done = _whole_shards(path, len(texts))
    left = of_shards(shards[done:])
    shown = tqdm(left, "shards", len(shards), leave=False, disable=None, unit="shard", initial=done)
    with path.open("ab") as file:
        for states in shown:
            if file.tell() == 0:
                shape = (len(texts), *states.shape[1:])
                np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            file.write(states.astype("<f4").tobytes())
            file.flush()


def _whole_shards(path: Path, texts: int) -> int:
    """How many shards the file has whole; what else stands there is cut off."""
    if not path.exists():
        return 0
    with path.open("r+b") as file:
        try:
            np.lib.format.read_magic(file)
            shape, _, _ = np.lib.format.read_array_header_1_0(file)
        except ValueError:  # it ends within its header
            file.truncate(0)
            return 0
        begin, each = file.tell(), 4 * math.prod(shape[1:])
        held = (file.seek(0, 2) - begin) // each
        if held < texts:
            held -= held % SHARD
            file.truncate(begin + held * each)
        return -(-held // SHARD)
