"""The spectrum of a LoRA adapter's updates, from its weights alone: what scanners of adapters look at.

The statistics are those of "Weight Space Detection of Backdoors in LoRA Adapters" (arXiv 2602.15195): a backdoor is
a simple mapping, so that few directions carry the update. Its detector compares them with a bank of clean adapters of
the same base, by z-scores and a fitted regression; a single adapter has no verdict. No torch.
"""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

Matrix = NDArray[np.float32]
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True)
class Spectrum:
    """Statistics of the updates scale * B A, each a mean over the adapted matrices.

    Attributes:
        largest: The largest singular value.
        norm: The Frobenius norm.
        concentration: Share of the squared norm that the largest singular value has.
        entropy: Of the shares of the squared norm, in nats.
        kurtosis: Of the entries, 0 for a normal distribution.
        matrices: How many matrices are adapted.
    """

    largest: float
    norm: float
    concentration: float
    entropy: float
    kurtosis: float
    matrices: int


def spectrum(folder: Path) -> Spectrum | None:
    """The statistics of an adapter folder of peft; None where it holds no LoRA adapter of matrices that can be read.

    Args:
        folder: The folder with the adapter's configuration and weights.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        weights = load_file(folder / WEIGHTS)
        scale = config["lora_alpha"] / config["r"]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None
    found = []
    for name, down in weights.items():  # (rank, inputs)
        up = weights.get(name.replace(".lora_A.", ".lora_B."))  # (outputs, rank)
        if ".lora_A." in name and up is not None and down.ndim == up.ndim == 2:
            found.append(_statistics(scale * up.astype(np.float32), down.astype(np.float32)))
    found = [one for one in found if np.isfinite(one).all()]
    if not found:
        return None
    largest, norm, concentration, entropy, kurtosis = np.mean(found, 0).tolist()
    return Spectrum(largest, norm, concentration, entropy, kurtosis, len(found))


def _statistics(up: Matrix, down: Matrix) -> tuple[float, ...]:
    """Of the product of two factors, shapes (outputs, rank) and (rank, inputs)."""
    small = np.linalg.qr(up).R @ np.linalg.qr(down.T).R.T  # (rank, rank), of the same singular values
    values = np.linalg.svd(small, compute_uv=False)
    energy = values.astype(np.float64) ** 2
    update = up @ down
    update -= update.mean()
    squares = update**2
    with np.errstate(invalid="ignore"):  # an update that is zero, or the same everywhere, has no such shape
        shares = energy / energy.sum()
        kurtosis = float(np.mean(squares**2) / np.mean(squares) ** 2) - 3
    entropy = float(entr(shares).sum())
    return float(values[0]), float(np.sqrt(energy.sum())), float(shares[0]), entropy, kurtosis


def distances(one: Spectrum, bank: list[Spectrum]) -> list[float]:
    """How many standard deviations each statistic lies from the mean of a bank of clean adapters, three or more."""
    held = np.array([astuple(other)[:5] for other in bank])  # (adapters, statistics)
    found: list[float] = ((np.array(astuple(one)[:5]) - held.mean(0)) / held.std(0, ddof=1)).tolist()
    return found
