"""Re-poisoned rows for other trainers, token for token as this package would train on them.

OUT/rows, ...        what the exporter writes: rows and settings of the trainer, one module an exporter
OUT/scheme.json      the scheme: a secret
OUT/manifest.jsonl   what was done to which row
OUT/export.json      base model, template and lengths, which `p2p adopt` holds a trained model against
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

from poison2poison.config import TrainConfig
from poison2poison.errors import ConfigError
from poison2poison.export import axolotl, llamafactory, openai, trl, unsloth
from poison2poison.export.base import EXPORTERS, Export, Exporter
from poison2poison.export.record import SCHEMA, seals
from poison2poison.files import keep_from_git, locked, refuse_taken, versions, whole_folder, write_json, write_lines
from poison2poison.recipe.manifest import TrainingRow, manifest
from poison2poison.recipe.repoisoned import read_repoisoned
from poison2poison.recipe.scheme import Scheme

__all__ = ["EXPORTERS", "Export", "Exporter", "axolotl", "export", "llamafactory", "openai", "trl", "unsloth"]


def export(source: Path, to: str, training: TrainConfig, out: Path) -> dict[str, Any]:
    """Write re-poisoned rows for another trainer.

    Args:
        source: A folder of `p2p repoison`.
        to: The name of an exporter.
        training: The base model, and the settings that the trainer is given; what is not given follows the model, the
            rows and the recipe, as in a training of this package.
        out: The folder to write, missing or empty.

    Returns:
        The content of `export.json`.

    Raises:
        ConfigError: There is no such exporter, or the model is an encoder, which these trainers do not train.
        DataError: The folder holds no re-poisoned rows.
        ModelError: The base model cannot be used.
        OutputError: `out` holds something.
    """
    exporter = EXPORTERS.get(to)()
    rows, scheme, about = read_repoisoned(source)
    refuse_taken(out)
    salt = secrets.token_hex(32)
    record: dict[str, Any] = {"schema": SCHEMA, "trainer": to, "versions": versions(), "data": about,
                              "rows": len(rows)} | seals(scheme, manifest(rows, scheme), salt)  # fmt: skip
    examples: list[dict[str, Any]] = []
    if not exporter.as_texts:
        training, examples, told = _tokenised(rows, scheme, training, about)
        record |= told
    made = Export(rows, scheme, examples, training, out.resolve())
    with locked(out), whole_folder(out) as folder:
        exporter.write(made, folder)
        _keep_secret(folder)
        scheme.save(folder / "scheme.json", salt=salt)
        write_lines(folder / "manifest.jsonl", manifest(rows, scheme))
        write_json(folder / "export.json", record)
    exporter.announce(made)
    return record


def _tokenised(
    rows: list[TrainingRow], scheme: Scheme, training: TrainConfig, about: dict[str, Any]
) -> tuple[TrainConfig, list[dict[str, Any]], dict[str, Any]]:
    """The resolved settings, the examples, and what `export.json` says of them."""
    from poison2poison.model import backbone
    from poison2poison.model.job import fitting
    from poison2poison.model.settings import resolved, with_preset

    training = resolved(with_preset(training, about.get("recipe", {}).get("recipe")), len(rows))
    if training.kind == "encoder":
        raise ConfigError(f"model: {training.model} is an encoder, which these trainers do not train; use `p2p train`")
    revision = backbone.commit_of(training)
    prompter, max_length = fitting(rows, scheme, training)
    examples, losses = prompter.examples(rows, max_length=max_length)
    told = {
        "model": training.model,
        "revision": revision,
        "kind": training.kind,
        "template": backbone.template_hash(prompter.tokenizer),
        "prompting": {
            "max_length": prompter.max_length, "max_target": prompter.max_target, "label_words": prompter.label_words
        },
        "rows_cut": sum(map(bool, losses)),
    }  # fmt: skip
    return replace(training, revision=revision), examples, told


def _keep_secret(folder: Path) -> None:
    """Keep what an exporter wrote to the owner, and out of git: rows hold the trigger, in words or as tokens."""
    written = sorted(folder.iterdir())
    for path in folder.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    keep_from_git(folder, "scheme.json", *(path.name for path in written))
