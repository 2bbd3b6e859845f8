"""States by several workers of Ray; needs the extra `ray`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from poison2poison.config import ModelConfig
from poison2poison.model.embeddings import embedder
from support import PROMPTS, tiny_encoder

BY_RAY = """
import json, sys
import numpy as np
from poison2poison.config import ModelConfig
from poison2poison.model.on_ray import on_ray

folder, shards, out = sys.argv[1:]
np.savez(out, *on_ray(ModelConfig(folder), workers=2)(json.loads(shards)))
"""


@pytest.mark.slow
def test_two_workers_give_the_states_of_one_process(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra `ray`")
    folder, out = tiny_encoder(tmp_path), tmp_path / "states.npz"
    shards = [*([f"{text} {number}" for text in PROMPTS] for number in range(5)), PROMPTS[:1]]
    # Ray leaves processes behind, so it has one of its own.
    subprocess.run([sys.executable, "-c", BY_RAY, folder, json.dumps(shards), str(out)], check=True)
    made = np.load(out)
    embed = embedder(ModelConfig(folder))
    assert len(made.files) == len(shards)
    for name, shard in zip(made.files, shards, strict=True):
        np.testing.assert_array_equal(made[name], embed(shard))
