"""Where the models of a run put clean, triggered and benign-triggered inputs: their last layer's states, in a plane."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poison2poison.data import Row
from poison2poison.errors import DataError
from poison2poison.files import write_json
from poison2poison.report.run import ANSWERS, RESULTS, STATES
from poison2poison.types import Space

if TYPE_CHECKING:
    import torch

SCHEMA = 1
SHOWN = 100
"""Rows of a set: more hide each other."""
SETS: dict[str, tuple[str, Space]] = {
    "clean": ("clean", "original"),
    "triggered": ("triggered", "original"),
    "clean, benign trigger": ("clean", "safe"),
    "triggered, benign trigger": ("triggered", "safe"),
}
"""The inputs: test rows, and the space whose prompt they get. With the benign trigger they are as a server has them."""


def write_states(folder: Path) -> None:
    """Project the states of a run's undefended and defended model, into `states.json` in its folder.

    Of each model the four sets of inputs go through one projection, on the two axes of their largest spread. Turns
    before a prompt are read as a part of it.

    Args:
        folder: As `p2p defend` leaves it, with triggered test rows.

    Raises:
        DataError: It lacks figures, rows or a model.
    """
    from poison2poison.model.defended import DefendedModel, load_prompter

    results, texts = _results(folder), _texts(folder)
    arms = _before_and_after(results, folder)
    prompter = load_prompter(folder / arms[1], allow_unlearned=True)
    pictures = []
    for arm in arms:
        loaded = DefendedModel.load(folder / arm, allow_unlearned=True)
        model = DefendedModel(loaded.model, prompter, dtype=loaded.dtype)
        states = {name: model.last_states(texts[rows], space) for name, (rows, space) in SETS.items()}
        pictures.append({"arm": arm, **_projected(states)})
    write_json(folder / STATES, {"schema": SCHEMA, "arms": pictures})


def _results(folder: Path) -> Mapping[str, Any]:
    path = folder / RESULTS
    try:
        content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: holds no figures ({error}); give the folder of a finished run") from None
    return content


def _texts(folder: Path) -> dict[str, list[Row]]:
    """Test rows by their set, each once."""
    path, found = folder / ANSWERS, dict[str, dict[int, Row]]()
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            rows = found.setdefault(record["set"], {})
            if len(rows) < SHOWN:
                rows.setdefault(record["row"], Row(record["prompt"], record["target"]))
    if len(found) < len({rows for rows, _ in SETS.values()}):
        raise DataError(f"{path}: has no triggered rows; there is nothing to compare clean ones with")
    return {name: [*rows.values()] for name, rows in found.items()}


def _before_and_after(results: Mapping[str, Any], folder: Path) -> tuple[str, str]:
    """The arm without a defence, and the first with a benign trigger, which alone have a paper ASR.

    Raises:
        DataError: One was not measured, or its model is gone.
    """
    arms = [arm["name"] for arm in results["arms"] if "paper_asr" in arm][:1]
    found = ("undefended", *arms)
    if len(found) < 2 or not all((folder / arm / "model").is_dir() for arm in found):
        raise DataError(f"{folder}: needs an undefended and a defended model (p2p-hardened or p2p-paper)")
    return found[0], found[1]


def _projected(states: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """The states of each set in a plane, and how much of their spread it shows.

    Args:
        states: By the set, each of shape (rows, width).
    """
    from sklearn.decomposition import PCA

    plane = PCA(2, random_state=0)
    together = [state for rows in states.values() for state in rows.tolist()]
    points = plane.fit_transform(together).round(3).tolist()
    sets, start = dict[str, Sequence[Any]](), 0
    for name, rows in states.items():
        sets[name] = points[start : start + len(rows)]
        start += len(rows)
    return {"sets": sets, "spread": round(float(plane.explained_variance_ratio_.sum()), 3)}
