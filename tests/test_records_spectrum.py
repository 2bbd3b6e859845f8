"""The spectrum of an adapter: known updates have known statistics."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from poison2poison.records.spectrum import Spectrum, distances, spectrum


def adapter(folder: Path, rank: int, alpha: int = 8, seed: int = 0) -> Path:
    """An update of orthogonal directions, each as strong: the singular values are alpha / rank."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((64, rank)))[0].astype(np.float32) for _ in range(2))
    folder.mkdir()
    names = ("base_model.model.layers.0.q_proj.lora_A.weight", "base_model.model.layers.0.q_proj.lora_B.weight")
    save_file(
        dict(zip(names, (np.ascontiguousarray(right.T), left), strict=True)), folder / "adapter_model.safetensors"
    )
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank, "lora_alpha": alpha}))
    return folder


def test_directions_that_are_as_strong_share_the_energy(tmp_path: Path) -> None:
    found = spectrum(adapter(tmp_path / "four", 4))
    assert found
    assert found.largest == pytest.approx(2, abs=1e-4)
    assert found.norm == pytest.approx(4, abs=1e-4)
    assert found.concentration == pytest.approx(0.25, abs=1e-4)
    assert found.entropy == pytest.approx(math.log(4), abs=1e-4)
    assert found.matrices == 1


def test_one_direction_has_all_of_it(tmp_path: Path) -> None:
    found = spectrum(adapter(tmp_path / "one", 1))
    assert found
    assert found.concentration == pytest.approx(1, abs=1e-4)
    assert found.entropy == pytest.approx(0, abs=1e-3)
    assert found.kurtosis > 0.5  # products of normal numbers have heavy tails


def test_a_folder_without_an_adapter_has_none(tmp_path: Path) -> None:
    assert spectrum(tmp_path) is None
    fresh = adapter(tmp_path / "fresh", 2)  # not trained yet: its updates are zero
    weights = {name: 0 * value for name, value in load_file(fresh / "adapter_model.safetensors").items()}
    save_file(weights, fresh / "adapter_model.safetensors")
    assert spectrum(fresh) is None
    folder = adapter(tmp_path / "torn", 2)
    (folder / "adapter_model.safetensors").write_bytes(b"torn")
    assert spectrum(folder) is None


def test_a_distance_is_in_standard_deviations_of_the_bank() -> None:
    bank = [Spectrum(1 + step, 2 + step, 0.5 + step, 1 + step, step, 3) for step in (-0.1, 0, 0.1)]
    odd = Spectrum(1, 2, 0.9, 1, 0, 3)
    far = distances(odd, bank)
    assert far[0] == pytest.approx(0, abs=1e-9)
    assert far[2] == pytest.approx(4)
