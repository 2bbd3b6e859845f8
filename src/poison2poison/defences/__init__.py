"""Published defences, one module each, to be measured on the rows that the audit is measured on.

base                    what a row filter is, and their registry
context                 what filters of the same rows share: embeddings, a learner, a language model
learner                 the small head that stands for a model fine-tuned on the rows
causal_lm               losses of words, and gradients of the output layer, of a causal LM
z_defence               tokens that go with a label too often (He et al., 2023)
onion                   words without which a text is more fluent (Qi et al., 2021)
activation_clustering   two clusters a class, one of them small (Chen et al., 2018)
cube                    clusters by density, the largest of a class kept (Cui et al., 2022)
graceful                low frequencies of per-sample gradients, clustered (Wu et al., 2025)
gradsentry              entropy of per-sample gradients' singular values (Zhao et al., 2026)
abl                     rows that are learned first (Li et al., 2021)
confident_learning      rows whose label others contradict (Northcutt et al., 2021)

How to add one: a module with a dataclass under `RowFilter`, whose fields are the paper's options, marked `@register`,
and its import here.
"""

from __future__ import annotations

from poison2poison.defences import (
    abl,
    activation_clustering,
    confident_learning,
    cube,
    graceful,
    gradsentry,
    onion,
    z_defence,
)
from poison2poison.defences.base import ROW_FILTERS, RowFilter, register
from poison2poison.defences.context import Context

__all__ = [
    "ROW_FILTERS",
    "Context",
    "RowFilter",
    "abl",
    "activation_clustering",
    "confident_learning",
    "cube",
    "graceful",
    "gradsentry",
    "onion",
    "register",
    "z_defence",
]
