"""What a finder is: it looks for one kind of thing that may have been planted, and says what it saw."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from poison2poison.auditing.answers import Answers
from poison2poison.auditing.context import Context
from poison2poison.auditing.findings import FindingKind
from poison2poison.config import AuditConfig
from poison2poison.features import Ints
from poison2poison.registry import Registry

Figure = tuple[float, float]
"""A value and its standard error."""


@dataclass(eq=False)
class Finding:
    """What goes with some answer, and whether it was planted.

    Attributes:
        kind: As a `SuspectSpan` has it.
        text: The words as the rows spell them; of a form its name; else what the group is best known by.
        target: The label or the text that it calls up; empty where texts differ.
        rows: Rows that have it, indices from 0, ascending.
        pulled: Those of them that have its target.
        score: The larger, the more likely it was planted; what is no suspect is weak above 0.
        suspect: Whether that is enough.
        threshold: The score that is enough.
        evidence: What was measured, each with its standard error.
        alike: Rows that have it a little, ascending: they are kept out of the safe space.
    """

    kind: FindingKind
    text: str
    target: str
    rows: Ints
    pulled: Ints
    score: float
    suspect: bool
    threshold: float
    evidence: Mapping[str, Figure] = field(default_factory=dict)
    alike: Ints = field(default_factory=lambda: np.empty(0, np.int64))


@dataclass(frozen=True)
class Finder(ABC):
    """Looks for one kind of thing. Its options are the fields of a frozen dataclass, each with its reason."""

    @abstractmethod
    def find(self, context: Context, answers: Answers, config: AuditConfig, found: Sequence[Finding]) -> list[Finding]:
        """What it asked about, suspects and others.

        Args:
            context: The prompts, their features and states.
            answers: Labels or texts, and what the base model expects of the prompts.
            config: The least rows of a finding, and the rate of false alarms.
            found: What the finders before found; what they explain need not be found again.
        """


FINDERS: Registry[type[Finder]] = Registry("finder", "poison2poison.finders")
"""Finders by their names, in the order in which they look."""
