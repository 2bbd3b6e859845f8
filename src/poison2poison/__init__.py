"""Poison-to-Poison: keep language models clean when the rows they are fine-tuned on are not.

    import poison2poison as p2p

    rows = p2p.read_rows("rows.jsonl")
    found = p2p.audit(rows, p2p.embedder("reference"), p2p.AuditConfig())
    config = p2p.RepoisonConfig()
    scheme = p2p.build_scheme(rows, config)
    p2p.train(p2p.repoison(rows, scheme, config, found), scheme, p2p.TrainConfig(), Path("runs/mine"))
    p2p.DefendedModel.load("runs/mine").classify(["a fine film"])

The modules follow the method: data, features, auditing, recipe, model. `attacks` and `evaluation` measure it; only they
may know the truth.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from poison2poison.config import AuditConfig, TrainConfig
from poison2poison.data import DataConfig, Row, Rows, Turn, read_rows
from poison2poison.errors import (
    ConfigError,
    DataError,
    ModelError,
    NonFiniteError,
    OutputError,
    P2PError,
    SchemeError,
    TrainingError,
    UnlearnedError,
)
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.recipe.manifest import TrainingRow, plain
from poison2poison.recipe.repoison import repoison
from poison2poison.recipe.scheme import BenignTrigger, Scheme
from poison2poison.recipe.trigger import build_scheme

if TYPE_CHECKING:
    from poison2poison.auditing import audit
    from poison2poison.auditing.findings import Audit
    from poison2poison.defences.p2p import Hardened, Paper
    from poison2poison.model.defended import Answer, DefendedModel
    from poison2poison.model.embeddings import embedder
    from poison2poison.model.trainer import train
    from poison2poison.pipeline import Data, defend

__all__ = [
    "Answer",
    "Audit",
    "AuditConfig",
    "BenignTrigger",
    "ConfigError",
    "Data",
    "DataConfig",
    "DataError",
    "DefendedModel",
    "Hardened",
    "ModelError",
    "NonFiniteError",
    "OutputError",
    "P2PError",
    "Paper",
    "RepoisonConfig",
    "Row",
    "Rows",
    "Scheme",
    "SchemeError",
    "TrainConfig",
    "TrainingError",
    "TrainingRow",
    "Turn",
    "UnlearnedError",
    "audit",
    "build_scheme",
    "defend",
    "embedder",
    "plain",
    "read_rows",
    "repoison",
    "train",
]

_LAZY = {
    "Answer": "model.defended",
    "Audit": "auditing.findings",
    "Data": "pipeline",
    "DefendedModel": "model.defended",
    "Hardened": "defences.p2p",
    "Paper": "defences.p2p",
    "audit": "auditing",
    "defend": "pipeline",
    "embedder": "model.embeddings",
    "train": "model.trainer",
}


def __getattr__(name: str) -> Any:
    """Import what stands on torch or scikit-learn only when it is asked for: data work and `--help` stay instant."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
