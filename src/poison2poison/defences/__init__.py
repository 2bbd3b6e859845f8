"""Defences, one class each: P2P and what it is compared with, all trained and measured by the same loop.

base                    what a defence is, what a row filter is, and their registry
shared                  what the defences of one run share: the audit, embeddings, what was worked out already
p2p                     Poison-to-Poison as published and hardened, and the counterexamples alone
baselines               undefended, the audit's suspects dropped, and the floor

Published row filters; what they point at is dropped:

z_defence               tokens that go with a label too often (He et al., 2023)
onion                   words without which a text is more fluent (Qi et al., 2021)
activation_clustering   two clusters a class, one of them small (Chen et al., 2018)
cube                    clusters by density, the largest of a class kept (Cui et al., 2022)
graceful                low frequencies of per-sample gradients, clustered (Wu et al., 2025)
gradsentry              entropy of per-sample gradients' singular values (Zhao et al., 2026)
abl                     rows that are learned first (Li et al., 2021)
confident_learning      rows whose label others contradict (Northcutt et al., 2021)

Published defences that come after the training, which is one for all of them:

strip                   inputs rejected whose answers stay sure whatever is mixed in (Gao et al., 2019)
rap                     inputs rejected that a trained rare word does not make unsure (Yang et al., 2021)
psim                    inputs rejected that a model with random labels is sure of (Zhao et al., 2024)
paraphrased             inputs in other words, from a file: back-translation, SCPD (Qi et al., 2021)
cleangen                tokens replaced that another model finds unlikely (Li et al., 2024)
clean_fine_tuning       trained further on trusted rows
fine_pruning            dormant units pruned, then the same (Liu et al., 2018)
crow                    the same with states evened out over the layers (Min et al., 2025)
w2s                     the same, guided by a clean teacher (Zhao et al., 2025)

Before and after it:

mb_defense              triggers of one's own trained in, then out with the attacker's (Kim and Lee, 2026)

inference, mending            what those have in common: watched inputs and answers, further training
context, learner, causal_lm   what row filters ask: embeddings, a small head trained on the rows, a causal LM

How to add one: docs/how-to/add-a-defence.md.
"""

from __future__ import annotations

from poison2poison.defences import (
    abl,
    activation_clustering,
    baselines,
    clean_fine_tuning,
    cleangen,
    confident_learning,
    crow,
    cube,
    fine_pruning,
    graceful,
    gradsentry,
    mb_defense,
    onion,
    p2p,
    paraphrased,
    psim,
    rap,
    strip,
    w2s,
    z_defence,
)
from poison2poison.defences.base import DEFENCES, Afterwards, Defence, Prepared, RowFilter, register, row_filters
from poison2poison.defences.context import FilterContext
from poison2poison.defences.shared import Shared

__all__ = [
    "DEFENCES",
    "Afterwards",
    "Defence",
    "FilterContext",
    "Prepared",
    "RowFilter",
    "Shared",
    "abl",
    "activation_clustering",
    "baselines",
    "clean_fine_tuning",
    "cleangen",
    "confident_learning",
    "crow",
    "cube",
    "fine_pruning",
    "graceful",
    "gradsentry",
    "mb_defense",
    "onion",
    "p2p",
    "paraphrased",
    "psim",
    "rap",
    "register",
    "row_filters",
    "strip",
    "w2s",
    "z_defence",
]
