"""What a defence is that looks at the rows before training and drops some of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from poison2poison.data import Rows
from poison2poison.defences.context import Context
from poison2poison.features import Ints

Need = Literal["labels", "embeddings", "training", "causal LM", "gradients"]


class RowFilter(ABC):
    """A published defence that points at rows. It never sees which rows are poisoned.

    Its options are the fields of a dataclass, with the paper's values as defaults.

    Attributes:
        name: What it is called in tables and in the registry.
        needs: What a defender must have who may have the rows alone.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[Need, ...]]

    def applies(self, rows: Rows) -> bool:
        """Whether the method says anything of such rows."""
        return True

    @abstractmethod
    def suspects(self, context: Context) -> Ints:
        """The rows that the method would drop: indices from 0, ascending."""


ROW_FILTERS: dict[str, type[RowFilter]] = {}
"""The row filters by their names."""


def register(kind: type[RowFilter]) -> type[RowFilter]:
    """Make a row filter known by its name.

    Raises:
        ValueError: The name is taken.
    """
    if kind.name in ROW_FILTERS:
        raise ValueError(f"row filter {kind.name!r} is there already")
    ROW_FILTERS[kind.name] = kind
    return kind
