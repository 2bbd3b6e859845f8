"""What P2P is compared with that needs no method of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from poison2poison.data import Rows
from poison2poison.defences.base import UNDEFENDED, Defence, Need, Prepared, register, without
from poison2poison.defences.shared import Shared


@register
class Undefended(Defence):
    """The rows as they are."""

    name = UNDEFENDED


@register
class DropSuspects(Defence):
    """The rows that the audit does not suspect, without P2P."""

    name = "drop-suspects"
    needs: ClassVar[tuple[Need, ...]] = ("audit",)

    def prepare(self, shared: Shared) -> Prepared:
        """See `Defence`."""
        suspects = [entry.row for entry in shared.audit.rows]
        return Prepared.plain(without(shared.rows, suspects, self.arm))


@dataclass(frozen=True)
class Clean(Defence):
    """The rows as they were before the attack, for the floor: an evaluation alone has them, so it has no name to ask
    for it by."""

    name = "clean"

    harmless: Rows

    def prepare(self, shared: Shared) -> Prepared:
        """See `Defence`."""
        return Prepared.plain(self.harmless)
