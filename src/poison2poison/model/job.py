"""What one training needs, made before the folder is: how its rows become tokens, and what is kept for the check."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poison2poison.config import TrainConfig
from poison2poison.data import Row, Rows
from poison2poison.model import backbone, processes, safe_space
from poison2poison.model.defended import DefendedModel
from poison2poison.model.prompting import Prompter, longest_target
from poison2poison.model.settings import check_fit
from poison2poison.recipe.manifest import TrainingRow
from poison2poison.recipe.scheme import Scheme
from poison2poison.types import ModelKind

NAMED = 20
"""Control tokens that a message names at most."""
LOSSES = {"turns": "their oldest turns", "body": "the end of their body", "target": "the end of their target"}
"""What rows that are too long lose, in words."""


@dataclass(frozen=True)
class Job:
    """What one training needs, the same for every attempt at it.

    Attributes:
        config: With nothing left open.
        examples: Token ids and targets of `rows`.
        lost: How many rows were too long, and how many of these lose turns, body or target.
        max_length: Tokens that prompt and target may have together in training.
        checks: Rows for the check of the safe space; none without a benign trigger.
        dev: Clean rows for the choice of the epoch, or None.
    """

    rows: Sequence[TrainingRow]
    examples: list[dict[str, Any]]
    lost: Counter[str]
    max_length: int
    prompter: Prompter
    config: TrainConfig
    out: Path
    dev: Rows | None
    checks: list[Row]

    @property
    def kind(self) -> ModelKind:
        return self.prompter.kind

    @property
    def checkpoints(self) -> Path:
        """The folder of its checkpoints, while it lasts."""
        return self.out / "checkpoints"

    @property
    def steps(self) -> int:
        """Optimizer steps of an epoch."""
        assert self.config.batch_size
        return math.ceil(len(self.examples) / self.config.batch_size)

    def served(self, model: Any) -> DefendedModel:
        """A model as it will be served, in the number format that it is trained in."""
        return DefendedModel(model, self.prompter, dtype=self.config.dtype)


def prepare(rows: Sequence[TrainingRow], scheme: Scheme, config: TrainConfig, out: Path, dev: Rows | None) -> Job:
    """Make tokens of the rows, keep some for the check of the safe space, and say what is lost.

    Args:
        rows: The rows to be trained on.
        scheme: Their scheme.
        config: With nothing left open.
        out: The artifact folder.
        dev: Clean rows for the choice of the epoch and for the check.

    Raises:
        ConfigError: As of `fitting`.
    """
    checks: list[Row] = []
    if scheme.trigger and dev:
        checks = [*dev]
    elif scheme.trigger:
        rows, checks = safe_space.hold_out(rows, scheme.labels, config.seed)
    prompter, max_length = fitting(rows, scheme, config)
    examples, losses = prompter.examples(rows, max_length=max_length)
    lost: Counter[str] = Counter()
    for gone in losses:
        lost.update(gone)
        lost["rows"] += bool(gone)
    _tell_what_is_cut(len(rows), lost)
    _tell_what_stays_text(rows, prompter)
    return Job(rows, examples, lost, max_length, prompter, config, out, dev, checks)


def fitting(rows: Sequence[TrainingRow], scheme: Scheme, config: TrainConfig) -> tuple[Prompter, int]:
    """How rows become tokens, and how many of them a row may have in training.

    What is not given follows the rows. In serving a prompt may be as long as the model takes, where nothing is given.

    Raises:
        ConfigError: As of `check_fit`.
    """
    check_fit(config, scheme)
    assert config.kind != "auto"
    tokenizer = backbone.load_tokenizer(config)
    positions = backbone.max_positions(config, tokenizer)
    most = min(config.max_length or positions, positions)
    max_target = config.max_target or 1
    if not scheme.labels and config.max_target is None:
        needed = longest_target(tokenizer, scheme, rows)
        max_target = min(needed, most // 2)
    prompter = Prompter(tokenizer, scheme, config.kind, max_length=most, max_target=max_target)
    if config.max_length is not None:
        return prompter, most
    behind = prompter.max_target if config.kind == "causal" else 0
    needed = prompter.longest_prompt(rows) + behind
    return prompter, min(most, needed)


def _tell_what_is_cut(rows: int, lost: Counter[str]) -> None:
    """Say before training how many rows are not trained on as they are."""
    if not lost["rows"]:
        return
    parts = ", ".join(f"{lost[part]} lose {what}" for part, what in LOSSES.items() if lost[part])
    processes.say(
        f"{lost['rows']} of {rows} rows are too long: {parts}. Give a larger --max-length or --max-target, or accept it"
    )


def _tell_what_stays_text(rows: Sequence[TrainingRow], prompter: Prompter) -> None:
    """Say which control tokens' texts stand in rows, where they stay text."""
    held: Counter[str] = Counter()
    for row in rows:
        found = prompter.encoder.held(f"{row.text}\n{row.target}")
        held.update({*found})
    if not held:
        return
    named = ", ".join(f"{token!r} ({count})" for token, count in held.most_common(NAMED))
    processes.say(f"rows hold the text of control tokens, which stays text: {named} rows")
