"""What an exporter is given, what it does, and where all of them are listed."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from poison2poison.config import TrainConfig
from poison2poison.files import write_text
from poison2poison.recipe.manifest import TrainingRow
from poison2poison.recipe.scheme import Scheme
from poison2poison.registry import Registry


@dataclass(frozen=True)
class Export:
    """Re-poisoned rows on their way to a trainer.

    Attributes:
        rows: The rows.
        scheme: Their scheme.
        examples: `input_ids` and `labels` of each row, as this package would train on it; labels are -100 where there
            is no loss, and nothing is padded. Empty for an exporter that takes texts.
        training: The settings that this package would train with; nothing is left open where there are examples.
        out: Where the folder will stand, as an absolute path.
    """

    rows: Sequence[TrainingRow]
    scheme: Scheme
    examples: Sequence[Mapping[str, list[int]]]
    training: TrainConfig
    out: Path

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(len(example["input_ids"]) for example in self.examples)

    @property
    def warmup_steps(self) -> int:
        """Optimizer steps that warm up: not all trainers take a share."""
        assert self.training.batch_size and self.training.epochs and self.training.warmup is not None
        steps = math.ceil(len(self.examples) / self.training.batch_size) * self.training.epochs
        return math.ceil(self.training.warmup * steps)

    @cached_property
    def base(self) -> str:
        """The base model as another program finds it: a folder by its absolute path, or a hub name."""
        from poison2poison.model.backbone import locate

        path = Path(locate(self.training.model))
        return str(path.resolve()) if path.is_dir() else self.training.model

    @cached_property
    def lora_layers(self) -> list[str]:
        """Names of the layers that LoRA adapts."""
        from poison2poison.model import backbone, lora

        assert self.training.lora_targets
        return lora.target_modules(backbone.skeleton(self.training), self.training.lora_targets)


class Exporter(ABC):
    """Writes rows and configuration for one trainer."""

    as_texts = False
    """Whether the trainer gets texts, of which it makes tokens itself: then no base model is looked at."""

    @abstractmethod
    def write(self, export: Export, folder: Path) -> None:
        """Write what the trainer needs; all of it becomes the owner's alone, for it holds the trigger.

        Args:
            export: What there is to write.
            folder: An empty folder. It takes the place of `export.out` when all is written: files name that one.
        """

    def announce(self, export: Export) -> None:  # noqa: B027, most trainers need none
        """Tell files of the trainer's own about `export.out`, when that is written."""


EXPORTERS: Registry[type[Exporter]] = Registry("trainer", "poison2poison.exporters")
"""By the name that `p2p export --to` takes."""


def write_settings(path: Path, settings: Mapping[str, Any], explained: str) -> None:
    """Write a trainer's settings as YAML, below a comment."""
    import yaml

    comment = "".join(f"# {line}\n" for line in explained.splitlines())
    write_text(path, comment + yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True))
