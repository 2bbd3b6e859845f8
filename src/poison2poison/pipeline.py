"""The whole path in one go: untrusted rows, prepared by each defence, trained on, and measured."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from poison2poison.config import AuditConfig, TrainConfig, refuse_changed
from poison2poison.data import Rows, check_trainable
from poison2poison.defences.base import Defence, Prepared
from poison2poison.defences.baselines import Clean
from poison2poison.defences.p2p import P2P
from poison2poison.defences.shared import AUDIT, Shared
from poison2poison.errors import ConfigError, InapplicableError, OutputError
from poison2poison.evaluation import Arm, Target, check_target, describe, measure, results, set_floor, write_results
from poison2poison.evaluation.schema import Results
from poison2poison.model import processes
from poison2poison.model.defended import DefendedModel
from poison2poison.model.hardware import free_memory
from poison2poison.model.settings import resolved, with_preset
from poison2poison.model.trainer import train


@dataclass(frozen=True)
class Data:
    """What a defence is given (`train`, `dev`), and what it is measured on (the rest, which it never sees).

    `harmless` is the training data without the attack, for the floor; only an evaluation that knows the truth has it.
    """

    name: str
    train: Rows
    dev: Rows | None
    clean: Rows
    triggered: Rows | None = None
    target: Target | None = None
    harmless: Rows | None = None


def defend(
    data: Data,
    defences: Sequence[Defence],
    training: TrainConfig,
    out: Path,
    *,
    audit: AuditConfig | None = None,
    allow_unlearned: bool = False,
    lost: dict[str, Exception] | None = None,
) -> Results:
    """Prepare the rows by each defence, fine-tune on them, and measure.

    Every defence is an arm with a folder in `out`; an interrupted call goes on where it was. All arms are trained with
    the same settings. Several processes train together; the first one prepares, measures and writes.

    Args:
        data: Rows and test sets. With `harmless` rows they are an arm too, for the floor.
        defences: In the order of the tables.
        training: How models are fine-tuned; the preset `auto` is that of the first recipe among the defences.
        out: The folder for arms and figures, and for what the defences share, such as `audit.json`.
        audit: Thresholds of the audit.
        allow_unlearned: Measure a defended model that has not learned its safe space too, and say so in its figures.
        lost: Takes the errors of defences that fail, by their arms, and the others go on; None to raise the first.

    Returns:
        The content of `results.json`, which is written to `out` with `rows.jsonl`.

    Raises:
        P2PError: Data, options or folders cannot be used.
        TrainingError: A training ended without a usable model.
    """
    check_trainable(data.train)
    if data.triggered is not None and data.target is not None:
        check_target(data.triggered, data.target)
    arms = [defence.arm for defence in defences]
    if twice := [arm for arm in arms if arms.count(arm) > 1]:
        raise ConfigError(f"compare: {twice[0]} is there twice; name it once")
    audit = audit or AuditConfig()
    if not any("audit" in defence.needs for defence in defences):
        refuse_changed(audit, f"{' and '.join(arms)} need no audit; leave it out")
    if data.harmless is not None and data.triggered is not None:
        defences = [*defences, Clean(data.harmless)]
    with processes.alone(out):
        return _defend(data, defences, training, out, audit, allow_unlearned=allow_unlearned, lost=lost)


def _defend(
    data: Data,
    defences: Sequence[Defence],
    training: TrainConfig,
    out: Path,
    audit: AuditConfig,
    *,
    allow_unlearned: bool,
    lost: dict[str, Exception] | None,
) -> Results:
    """Defend in a folder that no other run is at work in."""
    # 1. Refuse what would go wrong later.
    _check_folder(out, defences)
    model = training.model  # as it was given
    recipe = next((defence.recipe.recipe for defence in defences if isinstance(defence, P2P)), None)
    training = resolved(with_preset(training, recipe), len(data.train))  # once, or arms of more rows had others
    applying = []
    for defence in defences:
        with _failing(defence, lost):
            _check_applies(defence, data, training)
            applying.append(defence)

    # 2. Prepare the rows for all, which may refuse them, before any model is trained.
    shared, prepared = Shared(data.train, training, out, audit, data.dev), []
    for defence in applying:
        with _failing(defence, lost):
            prepared.append((defence, processes.once(partial(defence.prepare, shared))))
    shared.free()
    free_memory()  # of the model that read the rows

    # 3. Train and measure, one after another.
    arms = []
    for defence, rows in prepared:
        with _failing(defence, lost):
            folder = out / defence.folder
            arms.append(arm_of(defence, rows, data, shared, folder, allow_unlearned=allow_unlearned))
    if clean := next((arm for arm in arms if arm.name == Clean.name), None):
        set_floor(arms, clean)
    sets = describe(train=data.train, dev=data.dev, test=data.clean, triggered=data.triggered)
    content = results("defend", data.name, model, training.seed, sets, arms)
    if processes.is_writer():
        write_results(out, content, arms)
    return content


@contextmanager
def _failing(defence: Defence, lost: dict[str, Exception] | None) -> Iterator[None]:
    """Where failures are taken, keep that of this defence, of whatever kind: it may be somebody else's."""
    try:
        yield
    except Exception as error:
        if lost is None:
            raise
        lost[defence.arm] = error


def arm_of(
    defence: Defence, prepared: Prepared, data: Data, shared: Shared, folder: Path, *, allow_unlearned: bool
) -> Arm:
    """Train one arm in its folder, or go on with it, and measure it.

    Args:
        defence: The defence.
        prepared: What it made of the rows.
        data: What is measured on; of the training rows nothing is read.
        shared: What the defences of the run share.
        folder: The artifact folder.
        allow_unlearned: As of `defend`.
    """

    def fit(rows: Prepared) -> dict[str, Any]:
        about = describe(train=rows.source) | rows.about
        return train(
            rows.rows, rows.scheme, shared.training, folder, dev=data.dev, about=about, allow_unlearned=allow_unlearned
        )

    run = defence.train(prepared, fit)
    arm, seconds = processes.once(lambda: _measured(defence, folder, data, shared, allow_unlearned=allow_unlearned))
    arm.needs, arm.rho = defence.needs, defence.recipe.resolved().rho if isinstance(defence, P2P) else None
    if run["resumed_from"] is None:  # else its time and memory are those of its last part only
        together = round(run["train_seconds"] + seconds, 1)
        measured = {"train_seconds": together, "peak_memory_mib": run["peak_memory_mib"]}
        arm.training = {key: value for key, value in measured.items() if value is not None}
    if "safe_space" in run:
        arm.safe_space = run["safe_space"]
    return arm


def _measured(
    defence: Defence, folder: Path, data: Data, shared: Shared, *, allow_unlearned: bool
) -> tuple[Arm, float]:
    """The figures of an arm, and the seconds that its defence took after the training."""
    model = DefendedModel.load(folder, allow_unlearned=allow_unlearned)
    started = time.monotonic()
    model = defence.serve(model, shared)
    seconds = time.monotonic() - started
    arm = measure(defence.arm, model, data.clean, data.triggered, data.target)
    del model
    free_memory()  # before the next arm's is loaded
    return arm, seconds


def _check_applies(defence: Defence, data: Data, training: TrainConfig) -> None:
    """Refuse a defence that says nothing of such rows, or lacks the model or the rows that it asks."""
    if not defence.applies(data.train):
        raise InapplicableError(f"compare: {defence.arm} says nothing of rows for {data.train.task}; leave it out")
    if "trusted rows" in defence.needs and data.dev is None:
        raise InapplicableError(f"compare: {defence.arm} needs trusted rows; give --dev, or leave it out")
    if "causal LM" in defence.needs and training.kind != "causal":
        raise InapplicableError(f"compare: {defence.arm} asks a causal LM, and {training.model} is none; leave it out")


def _check_folder(out: Path, defences: Sequence[Defence]) -> None:
    """Refuse a folder of something else, and to write over the figures of arms that are not asked for again."""
    asked = {defence.arm for defence in defences}
    folders = {defence.folder for defence in defences}
    known = (*asked, *folders, *(f"{name}.json" for name in (AUDIT, *asked)))
    if out.exists() and any(out.iterdir()) and not any((out / entry).exists() for entry in known):
        raise OutputError(f"{out}: exists and holds no run of this command; give another --out")
    path = out / "results.json"
    if not path.exists():
        return
    try:
        lost = {arm["name"] for arm in json.loads(path.read_text(encoding="utf-8"))["arms"]} - asked
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{path}: holds no figures ({error}); give another --out, or delete it") from None
    if lost:
        raise OutputError(
            f"{path}: has figures of {', '.join(sorted(lost))}, which these options leave out; give another --out, or "
            "the same options and more"
        )
