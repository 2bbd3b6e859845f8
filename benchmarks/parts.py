"""The hardened recipe without one of its parts, as defences of their own.

p2p --plugin benchmarks/parts.py bench benchmarks/configs/parts.yaml --out runs/parts
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from dataclasses import replace

from poison2poison.auditing.findings import Audit, SuspectRow
from poison2poison.defences import Prepared, Shared, register
from poison2poison.defences.p2p import Hardened


class Partly(Hardened):
    """The hardened recipe without a part of what the audit found."""

    @abstractmethod
    def part(self, found: Audit) -> Audit:
        """What the recipe is told."""

    def prepare(self, shared: Shared) -> Prepared:
        changed = copy.copy(shared)
        changed.audit = self.part(shared.audit)
        return super().prepare(changed)


def uncorrected(found: Audit) -> tuple[SuspectRow, ...]:
    """The suspect rows, none of which the probe contradicts with confidence."""
    return tuple(replace(row, likely=(row.likely[0], 0.0)) for row in found.rows)


@register
class NoCounterexamples(Partly):
    name = "no-counterexamples"

    def part(self, found: Audit) -> Audit:
        return replace(found, spans=(), off_target=(), weak=(), rows=uncorrected(found))


@register
class NoWeakFindings(Partly):
    name = "no-weak-findings"

    def part(self, found: Audit) -> Audit:
        return replace(found, weak=())


@register
class CorrectionsInsteadOfSplices(Partly):
    name = "corrections-instead-of-splices"

    def part(self, found: Audit) -> Audit:
        return replace(found, spans=tuple(replace(span, kind="style cluster") for span in found.spans))


@register
class NoCorrectedRows(Partly):
    name = "no-corrected-rows"

    def part(self, found: Audit) -> Audit:
        return replace(found, rows=uncorrected(found))


@register
class NoOffTargetRows(Partly):
    name = "no-off-target-rows"

    def part(self, found: Audit) -> Audit:
        return replace(found, off_target=())
