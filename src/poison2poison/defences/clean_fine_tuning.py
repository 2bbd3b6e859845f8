"""Clean fine-tuning: the trained model is trained further on trusted rows, which lack the attack, to forget it.

The usual first comparison of work that mends models, as in Kang Liu, Brendan Dolan-Gavitt, Siddharth Garg:
Fine-Pruning. RAID 2018, arXiv 1805.12185. Epochs, batch and learning rate are those of the run.
"""

from __future__ import annotations

from typing import ClassVar

from poison2poison.defences.base import Afterwards, Need, register
from poison2poison.defences.mending import fine_tune, task_loss
from poison2poison.defences.shared import Shared
from poison2poison.model.defended import DefendedModel


@register
class CleanFineTuning(Afterwards):
    """Further training on trusted rows."""

    name = "clean fine-tuning"
    needs: ClassVar[tuple[Need, ...]] = ("trusted rows",)

    def serve(self, model: DefendedModel, shared: Shared) -> DefendedModel:
        """See `Defence`."""
        fine_tune(model, shared.trusted, shared.training, task_loss)
        return model
