"""Paraphrases at inference: other words for every input, in which a trigger seldom survives.

Fanchao Qi, Mukai Li, Yangyi Chen, Zhengyan Zhang, Zhiyuan Liu, Yasheng Wang, Maosong Sun: Hidden Killer: Invisible
Textual Backdoor Attacks with Syntactic Trigger. ACL 2021, arXiv 2105.12400, compares two of them: back-translation, by
way of another language, and SCPD, which gives inputs another syntactic structure.

Both need a model of their own, which is not here: the paraphrases come from a file. It has them for triggered inputs
too, made by somebody who did not know which inputs are triggered.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from poison2poison.data.pairs import read_pairs
from poison2poison.defences.base import Afterwards, Need, Prepared, register
from poison2poison.defences.inference import Rewritten
from poison2poison.defences.shared import Shared
from poison2poison.errors import InapplicableError
from poison2poison.model.defended import DefendedModel


@register
@dataclass(frozen=True)
class Paraphrased(Afterwards):
    """Every input gives way to its paraphrase.

    Attributes:
        pairs: A .jsonl file with the fields `prompt`, as the test row has it, and `paraphrase`: the layout that the
            attack `paraphrase` reads.
    """

    name: ClassVar[str] = "paraphrased"
    needs: ClassVar[tuple[Need, ...]] = ("paraphrases", "inference cost")

    pairs: str = ""

    def prepare(self, shared: Shared) -> Prepared:
        """See `Defence`.

        Raises:
            InapplicableError: No file is named.
            DataError: It cannot be read.
        """
        if not self.pairs:
            raise InapplicableError(
                "compare: paraphrased needs a file of paraphrases; give paraphrased:pairs=FILE, or leave it out"
            )
        read_pairs(Path(self.pairs), "paraphrase")
        return super().prepare(shared)

    def serve(self, model: DefendedModel, shared: Shared) -> DefendedModel:
        """See `Defence`."""
        return Rewritten(model, read_pairs(Path(self.pairs), "paraphrase"))
