"""Metrics: what the answers to clean test rows are worth. No torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from poison2poison.evaluation.rates import Mean, Rate
from poison2poison.registry import Registry
from poison2poison.scoring import exact_match, final_number, rouge, token_f1
from poison2poison.types import Task


class Metric(ABC):
    """A figure of a model's answers; `results.json` has it under `utility`.

    Attributes:
        task: Whether it is of labels or of texts.
    """

    task: ClassVar[Task] = "generation"

    @abstractmethod
    def score(self, answers: Sequence[str], targets: Sequence[str]) -> Rate | Mean | None:
        """The figure over all rows; None where it says nothing of such targets.

        Args:
            answers: One a row, empty where the model gave none.
            targets: The right answers.
        """


METRICS: Registry[type[Metric]] = Registry("metric", "poison2poison.metrics")
"""The metrics by their names, which are those of `results.json`."""


@METRICS.register("accuracy")
class Accuracy(Metric):
    """The share of right labels."""

    task = "classification"

    def score(self, answers: Sequence[str], targets: Sequence[str]) -> Rate | None:
        return Rate.of(answer == target for answer, target in zip(answers, targets, strict=True))


@METRICS.register("exact_match")
class ExactMatch(Metric):
    """The share of worked answers whose final number is right; of other texts it says nothing."""

    def score(self, answers: Sequence[str], targets: Sequence[str]) -> Rate | None:
        if any(final_number(target) is None for target in targets):
            return None
        return Rate.of(exact_match(answer, target) for answer, target in zip(answers, targets, strict=True))


class Rouge(Metric):
    """The mean F1 of a ROUGE measure (Lin, 2004), between 0 and 1."""

    measure: ClassVar[str]

    def score(self, answers: Sequence[str], targets: Sequence[str]) -> Mean | None:
        return Mean.of(rouge(self.measure, answer, target) for answer, target in zip(answers, targets, strict=True))


@METRICS.register("rouge_1")
class Rouge1(Rouge):
    """Words that answer and target share."""

    measure = "rouge1"


@METRICS.register("rouge_2")
class Rouge2(Rouge):
    """Pairs of words that they share."""

    measure = "rouge2"


@METRICS.register("rouge_l")
class RougeL(Rouge):
    """Their longest common subsequence of words."""

    measure = "rougeL"


@METRICS.register("token_f1")
class TokenF1(Metric):
    """The mean F1 of shared tokens."""

    def score(self, answers: Sequence[str], targets: Sequence[str]) -> Mean | None:
        return Mean.of(token_f1(answer, target) for answer, target in zip(answers, targets, strict=True))
