"""Poison-to-Poison: keep language models clean when the rows they are fine-tuned on are not.

    import poison2poison as p2p

    rows = p2p.read_rows("rows.jsonl")
    config = p2p.RepoisonConfig(trigger="random")
    scheme = p2p.build_scheme(rows, config)
    p2p.train(p2p.repoison(rows, scheme, config), scheme, p2p.TrainConfig(), Path("runs/mine"))
    p2p.DefendedModel.load("runs/mine").classify(["a fine film"])

The modules follow the method: records, scheme, repoison, prompting, models, training, defended. `attacks`, `scoring`
and `evaluation` measure it; only they may know the truth.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from poison2poison.config import TrainConfig
from poison2poison.errors import ConfigError, DataError, ModelError, OutputError, P2PError, SchemeError
from poison2poison.records import DataConfig, Row, Rows, read_rows
from poison2poison.repoison import RepoisonConfig, TrainingRow, build_scheme, plain, repoison
from poison2poison.scheme import Scheme, Trigger

if TYPE_CHECKING:
    from poison2poison.defended import Answer, DefendedModel
    from poison2poison.training import train

__all__ = [
    "Answer",
    "ConfigError",
    "DataConfig",
    "DataError",
    "DefendedModel",
    "ModelError",
    "OutputError",
    "P2PError",
    "RepoisonConfig",
    "Row",
    "Rows",
    "Scheme",
    "SchemeError",
    "TrainConfig",
    "TrainingRow",
    "Trigger",
    "build_scheme",
    "plain",
    "read_rows",
    "repoison",
    "train",
]

_NEED_TORCH = {"Answer": "defended", "DefendedModel": "defended", "train": "training"}


def __getattr__(name: str) -> Any:
    """Import what stands on torch only when it is asked for: data work and `--help` stay instant."""
    if name not in _NEED_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NEED_TORCH[name]}"), name)
