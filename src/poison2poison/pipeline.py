"""The whole path in one go: untrusted rows, re-poisoned, trained, and measured against the undefended model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from poison2poison.auditing import audit as run_audit
from poison2poison.auditing.findings import Audit
from poison2poison.config import AuditConfig, ModelConfig, TrainConfig, refuse_changed
from poison2poison.data import Rows, check_trainable
from poison2poison.errors import OutputError
from poison2poison.evaluation import Arm, Target, check_target, describe, measure, results, set_floor, write_results
from poison2poison.files import write_json
from poison2poison.model import processes
from poison2poison.recipe.config import RepoisonConfig, as_dict
from poison2poison.recipe.manifest import TrainingRow, plain
from poison2poison.recipe.repoison import repoison
from poison2poison.recipe.scheme import Scheme
from poison2poison.recipe.trigger import build_scheme, check_options

AUDIT = "audit.json"


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
    recipe: RepoisonConfig,
    training: TrainConfig,
    out: Path,
    *,
    audit: AuditConfig | None = None,
    baseline: bool = False,
    drop_suspects: bool = False,
    allow_unlearned: bool = False,
) -> dict[str, Any]:
    """Audit, re-poison, fine-tune and measure.

    Every arm has its folder in `out`; an interrupted call goes on where it was. All arms are trained with the settings
    of the recipe. Several processes train together; the first one audits, measures and writes.

    Args:
        data: Rows and test sets.
        recipe: How rows are re-poisoned.
        training: How models are fine-tuned.
        out: The folder for arms, `audit.json` and figures.
        audit: Thresholds of the audit.
        baseline: Also fine-tune undefended and measure that.
        drop_suspects: Also fine-tune undefended on the rows that the audit does not suspect, and measure that.
        allow_unlearned: Measure a defended model that has not learned its safe space too, and say so in its figures.

    Returns:
        The content of `results.json`, which is written to `out` with `rows.jsonl`.

    Raises:
        P2PError: Data, options or folders cannot be used.
        TrainingError: A training ended without a usable model.
    """
    check_trainable(data.train)
    if data.triggered is not None and data.target is not None:
        check_target(data.triggered, data.target)
    audit = audit or AuditConfig()
    if recipe.recipe == "paper" and not drop_suspects:
        refuse_changed(audit, "the paper's recipe has no audit; leave it out")
    with processes.alone(out):
        return _defend(
            data,
            recipe.resolved(),
            training,
            out,
            audit,
            baseline=baseline,
            drop_suspects=drop_suspects,
            allow_unlearned=allow_unlearned,
        )


def _defend(
    data: Data,
    recipe: RepoisonConfig,
    training: TrainConfig,
    out: Path,
    audit: AuditConfig,
    *,
    baseline: bool,
    drop_suspects: bool,
    allow_unlearned: bool,
) -> dict[str, Any]:
    """Defend in a folder that no other run is at work in."""
    from poison2poison.model.settings import check_fit, resolved

    name = f"p2p-{recipe.recipe}"
    known = (name, "undefended", AUDIT)
    if out.exists() and any(out.iterdir()) and not any((out / entry).exists() for entry in known):
        raise OutputError(f"{out}: exists and holds no run of this command; give another --out")
    harmless = data.harmless if data.triggered is not None else None
    asked = {name: True, "undefended": baseline, "drop-suspects": drop_suspects, "clean": harmless is not None}
    _check_figures(out / "results.json", {arm for arm, wanted in asked.items() if wanted})
    model = training.model  # as it was given
    training = resolved(with_preset(training, recipe.recipe), len(data.train))  # once, or arms of more rows had others
    undefended = Scheme(data.train.task, data.train.labels)
    scheme = processes.shared(lambda: _scheme(data.train, recipe, out / name))  # drawn once
    check_fit(training, scheme)
    found = None
    if recipe.recipe == "hardened" or drop_suspects:
        found = processes.shared(lambda: _audit(data.train, training, audit, recipe.seed, out / AUDIT))
    rows = repoison(data.train, scheme, recipe, found)  # first, for it may refuse the rows
    arms: list[Arm] = []
    if baseline:
        arms.append(_arm("undefended", plain(data.train), undefended, data, training, out, data.train))
    arms.append(_arm(name, rows, scheme, data, training, out, data.train, recipe, allow_unlearned=allow_unlearned))
    if found and drop_suspects:
        suspects = {entry.row for entry in found.rows}
        left = data.train.with_rows([row for i, row in enumerate(data.train) if i not in suspects])
        arms.append(_arm("drop-suspects", plain(left), undefended, data, training, out, left))
    if harmless is not None:
        clean = _arm("clean", plain(harmless), undefended, data, training, out, harmless)
        set_floor(arms, clean)
        arms.append(clean)
    sets = describe(train=data.train, dev=data.dev, test=data.clean, triggered=data.triggered)
    content = results("defend", data.name, model, training.seed, sets, arms)
    if processes.is_writer():
        write_results(out, content, arms)
    return content


def with_preset(training: TrainConfig, recipe: str | None) -> TrainConfig:
    """The training of a recipe: the paper's settings for the paper's recipe, tuned ones for all else."""
    if training.preset != "auto":
        return training
    return replace(training, preset="paper" if recipe == "paper" else "tuned")


def _check_figures(path: Path, asked: set[str]) -> None:
    """Refuse to write over the figures of arms that are not asked for again."""
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


def _audit(rows: Rows, training: TrainConfig, config: AuditConfig, seed: int, path: Path) -> Audit:
    """The audit of an interrupted run, or a new one by the base model that will be fine-tuned."""
    model = {field.name: getattr(training, field.name) for field in fields(ModelConfig)}
    made_with = {**asdict(config), **model, "seed": seed}
    if path.exists():
        found = Audit.load(path)
        if found.sha256 != rows.sha256 or json.loads(path.read_text(encoding="utf-8")).get("made_with") != made_with:
            raise OutputError(f"{path}: is an audit of other rows or options; give another --out, or delete it")
        return found
    from poison2poison.model.embeddings import embedder
    from poison2poison.model.hardware import free_memory

    found = run_audit(rows, embedder(training), config, seed)
    free_memory()
    write_json(path, found.as_dict() | {"made_with": made_with})
    return found


def _scheme(rows: Rows, recipe: RepoisonConfig, folder: Path) -> Scheme:
    """The scheme of an interrupted run with a drawn trigger, or a new one."""
    check_options(rows, recipe)
    if recipe.trigger != "random" or not (folder / "scheme.json").exists():
        return build_scheme(rows, recipe)
    drawn = Scheme.load(folder / "scheme.json")
    if drawn.trigger is None:
        raise OutputError(f"{folder}: holds a run without a defence; give another --out, or delete it")
    has = {"prefix": drawn.trigger.prefix, "cue": drawn.trigger.cue}
    if drawn.safe_prefix:  # shifted labels have none
        has["safe_prefix"] = drawn.safe_prefix
    if drawn.labels and bool(drawn.safe_prefix) != (recipe.safe_labels == "prefix"):
        raise OutputError(f"{folder}: holds a run with other --safe-labels; give another --out, or delete it")
    for name, text in has.items():
        if getattr(recipe, name) not in (None, text):
            raise OutputError(f"{folder}: holds a run with another {name}; give another --out, or delete it")
    return drawn


def _arm(
    name: str,
    rows: Sequence[TrainingRow],
    scheme: Scheme,
    data: Data,
    training: TrainConfig,
    out: Path,
    source: Rows,
    recipe: RepoisonConfig | None = None,
    *,
    allow_unlearned: bool = False,
) -> Arm:
    from poison2poison.model.trainer import train

    about = describe(train=source) | ({"recipe": as_dict(recipe)} if recipe else {})
    run = train(rows, scheme, training, out / name, dev=data.dev, about=about, allow_unlearned=allow_unlearned)
    arm = processes.shared(lambda: _measured(name, out / name, data, allow_unlearned=allow_unlearned))
    if run["resumed_from"] is None:  # else its time and memory are those of its last part only
        measured = {key: run[key] for key in ("train_seconds", "peak_memory_mib")}
        arm.training = {key: value for key, value in measured.items() if value is not None}
    if "safe_space" in run:
        arm.safe_space = run["safe_space"]
    return arm


def _measured(name: str, folder: Path, data: Data, *, allow_unlearned: bool) -> Arm:
    from poison2poison.model.defended import DefendedModel
    from poison2poison.model.hardware import free_memory

    model = DefendedModel.load(folder, allow_unlearned=allow_unlearned)
    arm = measure(name, model, data.clean, data.triggered, data.target)
    del model
    free_memory()  # before the next arm's is loaded
    return arm
