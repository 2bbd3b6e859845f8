"""STRIP: triggered inputs are answered alike, whatever is mixed into them.

Yansong Gao, Change Xu, Derui Wang, Shiping Chen, Damith Ranasinghe, Surya Nepal: STRIP: A Defence Against Trojan
Attacks on Deep Neural Networks. ACSAC 2019, arXiv 1902.06531. For texts: the same and others, Design and Evaluation of
a Multi-Domain Trojan Detection Method on Deep Neural Networks. IEEE TDSC 2021, arXiv 1911.10312.

Of an input there are copies, in each of which words give way to those of highest TF-IDF of a trusted row. Where the
answers to the copies are too sure on average, by their entropy, the input is rejected. Public implementations draw
those rows from the labels that the attacker does not want, and look at inputs of the attacker's label alone. Nobody
knows that label here: rows of all labels are drawn, and all inputs are looked at, under one threshold as in the paper.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import ClassVar

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from poison2poison.auditing.statistics import Floats
from poison2poison.data import Row, Rows
from poison2poison.defences.base import Afterwards, Need, register
from poison2poison.defences.inference import Guarded
from poison2poison.defences.shared import Shared
from poison2poison.model.defended import DefendedModel


@register
@dataclass(frozen=True)
class Strip(Afterwards):
    """Inputs are rejected whose copies have a low mean entropy.

    Attributes:
        copies: Of an input, each of which costs a pass: 20 in strip_vita.py of the authors of RAP (lancopku/RAP), 5 in
            OpenBackdoor's strip_defender.py. The authors' own code is of images alone.
        share: Of the words of a copy that are replaced: 0.5 as in OpenBackdoor; RAP's script has 0.7 by default.
        frr: Share of the trusted rows that the threshold rejects: 1 % in OpenBackdoor, 0.5 to 5 % in RAP's script.
    """

    name: ClassVar[str] = "STRIP"
    needs: ClassVar[tuple[Need, ...]] = ("trusted rows", "inference cost")

    copies: int = 20
    share: float = 0.5
    frr: float = 0.01

    def applies(self, rows: Rows) -> bool:
        """To labels alone, whose entropy it is."""
        return rows.task == "classification"

    def serve(self, model: DefendedModel, shared: Shared) -> DefendedModel:
        """See `Defence`."""
        telling, seed = telling_words([row.prompt for row in shared.trusted]), shared.training.seed

        def entropies(rows: Sequence[Row]) -> Floats:
            return self.entropies(model, rows, telling, seed)

        threshold = np.quantile(entropies(shared.trusted.rows), self.frr)
        return Guarded(model, lambda rows: (entropies(rows) < threshold).tolist())

    def entropies(self, model: DefendedModel, rows: Sequence[Row], telling: list[list[str]], seed: int) -> Floats:
        """The mean entropy of each row's copies in nats, shape (rows,).

        Args:
            model: The model that answers the copies.
            rows: The inputs.
            telling: As of `telling_words`.
            seed: Of the draws.
        """
        rng, total = random.Random(seed), np.zeros(len(rows))
        for _ in range(self.copies):
            mixed = [replace(row, prompt=self._mixed(row.prompt, rng.choice(telling), rng)) for row in rows]
            p = model.probabilities(mixed).double().numpy()
            total -= (p * np.log(p + 1e-12)).sum(1)
        return total / self.copies

    def _mixed(self, text: str, telling: list[str], rng: random.Random) -> str:
        """A text some of whose words were replaced."""
        words = text.split()
        places = rng.sample(range(len(words)), min(len(words), max(1, int(self.share * len(words)))))
        for place, word in zip(places, cycle(telling), strict=False):
            words[place] = word
        return " ".join(words)


def telling_words(texts: Sequence[str]) -> list[list[str]]:
    """The words of each text, that of the highest TF-IDF first; texts without words are left out."""
    vectors = TfidfVectorizer(lowercase=False, token_pattern=r"\w+")
    weights, names = vectors.fit_transform(texts), vectors.get_feature_names_out()
    found = []
    for row in weights:
        order = np.argsort(-row.data, kind="stable")
        found.append([str(names[i]) for i in row.indices[order]])
    return [words for words in found if words]
