"""A model that another trainer made becomes an artifact folder, after checks; refused with the reason otherwise.

The folder is one that `trainer` could have left: `DefendedModel.load` takes it, `p2p evaluate` measures it. Nothing but
files is taken from the other trainer: its tokenizer is compared, and the base model's is kept.
"""

from __future__ import annotations

import json
import shutil
import string
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import PreTrainedTokenizerBase

from poison2poison.config import REFERENCE, ModelConfig, TrainConfig
from poison2poison.data import Row, Rows
from poison2poison.errors import ModelError, UnlearnedError
from poison2poison.export.record import Exported, read_export
from poison2poison.files import (
    fingerprint,
    hashes,
    keep_from_git,
    locked,
    refuse_taken,
    versions,
    whole_folder,
    write_json,
    write_lines,
)
from poison2poison.model import alarm, backbone, safe_space
from poison2poison.model.defended import DefendedModel
from poison2poison.model.prompting import Prompter
from poison2poison.model.run import ARTIFACT, SCHEMA
from poison2poison.recipe.manifest import training_row
from poison2poison.reference import MODEL_DIR

ADAPTER = "adapter_config.json"
PROBE = f"{string.printable.strip()} Zoë naïve 你好 мир 🙂 <|im_end|></s>"
"""What two tokenizers are compared on where there are no dev rows."""
UNCHECKED = "whether the safe space is learned was not checked: it was adopted without dev rows. Adopt it with --dev"


def adopt(
    trained: Path,
    scheme: Path,
    manifest: Path,
    base: ModelConfig,
    out: Path,
    *,
    dev: Rows | None = None,
    allow_unlearned: bool = False,
) -> dict[str, Any]:
    """Make an artifact folder of a foreign trainer's adapter or merged model.

    Args:
        trained: The adapter (`adapter_config.json`, safetensors) or the whole model (`config.json`, safetensors).
        scheme: The `scheme.json` of the export that was trained on.
        manifest: The `manifest.jsonl` of that export, with its `export.json` beside.
        base: The base model.
        out: The artifact folder, missing or empty.
        dev: Clean rows, on which the safe space is checked and the alarm is set.
        allow_unlearned: Make a folder of a model too that did not learn its safe space, or was not checked.

    Returns:
        The content of `run.json`.

    Raises:
        SchemeError: The scheme is not that of the export.
        ModelError: Base model, revision, template, tokens or weights are not those of the export.
        UnlearnedError: The safe space was not learned.
        DataError: There is no export beside the manifest.
        OutputError: `out` holds something.
    """
    refuse_taken(out)
    exported = read_export(scheme, manifest)
    base = replace(base, model=backbone.canonical(base.model), kind="causal")
    tokenizer = _check_base(exported.record, base, manifest)
    tuning = _check_trained(trained, base)
    _check_tokens(trained, tokenizer, exported, dev)
    run = _run(exported, base, tuning, dev)
    with locked(out), whole_folder(out) as folder:
        _copy(trained, tuning, base.model, folder / "model")
        tokenizer.save_pretrained(folder / "model")
        exported.scheme.save(folder / "scheme.json", salt=exported.salt)
        keep_from_git(folder, "scheme.json")
        write_lines(folder / "manifest.jsonl", exported.entries)
        write_json(folder / "run.json", run | {"status": "unlearned", "reason": UNCHECKED})
        run |= _verdict(folder, trained, dev)
        if run["status"] != "done" and not allow_unlearned:
            raise UnlearnedError(f"{trained}: {run['reason']}, or to take it all the same --allow-unlearned")
        run["files"] = hashes(folder, ARTIFACT)
        write_json(folder / "run.json", run)
    return run


# --- checks ----------------------------------------------------------------------------------------------------------


def _check_base(record: dict[str, Any], base: ModelConfig, manifest: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of the base model, which must be the one that the rows were exported for.

    Raises:
        ModelError: It is not.
    """
    if _place(base.model) != _place(record["model"]):
        raise ModelError(f"model: {base.model} is not {record['model']}, which the rows of {manifest.parent} are for")
    commit = backbone.commit_of(base)
    if commit != record["revision"]:
        raise ModelError(f"revision: {base.model} is at {commit}, the rows are for {record['revision']}; give that one")
    tokenizer = backbone.load_tokenizer(base)
    if backbone.template_hash(tokenizer) != record["template"]:
        raise ModelError(f"{base.model}: has another chat template than when the rows were exported; export them anew")
    return tokenizer


def _check_trained(trained: Path, base: ModelConfig) -> str:
    """Whether a folder holds an adapter (`lora`) or a whole model (`full`) of the base model.

    Raises:
        ModelError: It holds neither, or one of another model.
    """
    if (trained / ADAPTER).is_file():
        _check_adapter(trained, base)
        return "lora"
    if not (trained / "config.json").is_file():
        raise ModelError(f"{trained}: holds neither an adapter ({ADAPTER}) nor a model (config.json)")
    if not any(trained.glob("*.safetensors")):
        raise ModelError(f"{trained}: holds no weights in safetensors; others are not read")
    own = replace(base, model=str(trained), revision=None)
    shapes, wanted = ({name: tuple(part.shape) for name, part in backbone.skeleton(config).state_dict().items()}
                      for config in (own, base))  # fmt: skip
    if other := sorted(name for name in {*shapes, *wanted} if shapes.get(name) != wanted.get(name)):
        first = other[0]
        raise ModelError(
            f"{trained}: weights of another shape than {base.model}'s: {first} is {shapes.get(first)}, "
            f"there {wanted.get(first)}"
        )
    return "full"


def _check_adapter(trained: Path, base: ModelConfig) -> None:
    config = _adapter_config(trained)
    if not (trained / "adapter_model.safetensors").is_file():
        raise ModelError(f"{trained}: holds no adapter_model.safetensors; other weights are not read")
    name = str(config.get("base_model_name_or_path"))
    if _place(name) != _place(base.model):
        raise ModelError(
            f"{trained}: is an adapter of {name}, not of {base.model}. If that is the same model, correct "
            f"base_model_name_or_path in its {ADAPTER}"
        )
    revision, commit = config.get("revision"), backbone.commit_of(base)
    if revision and commit and backbone.commit_of(replace(base, revision=revision)) != commit:
        raise ModelError(f"{trained}: is an adapter of revision {revision}, not of {commit}")


def _adapter_config(trained: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((trained / ADAPTER).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{trained / ADAPTER}: cannot be read ({error})") from None


def _place(name: str) -> str:
    """A model by where it lies, so that two names of one folder are one."""
    path = Path(MODEL_DIR if name == REFERENCE else name).expanduser()
    return str(path.resolve()) if path.is_dir() else name


def _check_tokens(trained: Path, own: PreTrainedTokenizerBase, exported: Exported, dev: Rows | None) -> None:
    """Refuse a tokenizer beside the weights that has another template, or makes other tokens of the dev rows.

    Raises:
        ModelError: It does. A folder without a tokenizer says nothing of what was trained on.
    """
    if not any(trained.glob("tokenizer*")):
        return
    other = backbone.load_tokenizer(str(trained))
    remedy = "If it trained on the exported tokens all the same, delete the tokenizer's files there"
    if backbone.template_hash(other) != exported.record["template"]:
        raise ModelError(f"{trained}: its tokenizer has another chat template than the base model. {remedy}")
    probe = Row(PROBE, exported.scheme.labels[0] if exported.scheme.labels else PROBE)
    rows = [*dev] if dev else [probe]
    if _tokens(other, exported, rows) != _tokens(own, exported, rows):
        raise ModelError(f"{trained}: its tokenizer makes other tokens than the base model's. {remedy}")


def _tokens(tokenizer: PreTrainedTokenizerBase, exported: Exported, rows: Sequence[Row]) -> list[dict[str, Any]]:
    prompter = Prompter(tokenizer, exported.scheme, "causal", **exported.record["prompting"])
    return prompter.examples([training_row(i, row, "safe", "keep") for i, row in enumerate(rows)])[0]


# --- the folder ------------------------------------------------------------------------------------------------------


def _run(exported: Exported, base: ModelConfig, tuning: str, dev: Rows | None) -> dict[str, Any]:
    """What `run.json` says, but for the verdict: what is not known of the other trainer is null."""
    record = exported.record
    unknown = {entry.name: None for entry in fields(TrainConfig)}
    return {
        "schema": SCHEMA,
        "fingerprint": fingerprint({"export": record, "dev": dev.sha256 if dev else None}, exported.salt),
        "versions": versions(),
        "trainer": record["trainer"],
        "kind": base.kind,
        "tuning": tuning,
        "config": unknown | asdict(base) | {"tuning": tuning},
        "revision": record["revision"],
        "dev": {"source": dev.source, "sha256": dev.sha256, "rows": len(dev)} if dev else None,
        "prompting": record["prompting"],
        "rows": record["rows"],
        "rows_cut": record["rows_cut"],
        "data": record["data"],
    }


def _copy(trained: Path, tuning: str, base: str, folder: Path) -> None:
    """Copy the weights and what says how they are read; the adapter is told where its base model is."""
    folder.mkdir()
    if tuning == "lora":
        write_json(folder / ADAPTER, _adapter_config(trained) | {"base_model_name_or_path": base, "revision": None})
        shutil.copyfile(trained / "adapter_model.safetensors", folder / "adapter_model.safetensors")
        return
    settings = (trained / name for name in ("config.json", "generation_config.json"))
    for path in [*settings, *trained.glob("model*.safetensors"), *trained.glob("model*.safetensors.index.json")]:
        if path.is_file():
            shutil.copyfile(path, folder / path.name)


def _verdict(folder: Path, trained: Path, dev: Rows | None) -> dict[str, Any]:
    """Load the folder as it will be served, and check its safe space on the dev rows."""
    model = DefendedModel.load(folder, allow_unlearned=True)
    if (folder / "model" / ADAPTER).is_file():
        _check_all_loaded(model.model, folder / "model", trained)
    if not dev:
        return {"status": "unlearned", "reason": UNCHECKED}
    found = safe_space.check(model, [*dev], "dev")
    verdict: dict[str, Any] = {"status": "done", "safe_space": found.as_dict()}
    apart = safe_space.disagreement(model, [*dev])
    verdict["alarm_threshold"] = alarm.threshold(apart, TrainConfig().alarm_rate)
    if found.learned:
        return verdict
    reason = f"the safe space was not learned: {found}. The model is no defence and is not served. Train it for longer"
    return verdict | {"status": "unlearned", "reason": reason}


def _check_all_loaded(model: Any, folder: Path, trained: Path) -> None:
    """Refuse an adapter with weights that the base model has no place for: peft leaves them out without a word."""
    from peft import get_peft_model_state_dict

    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        lost = sorted({*file.keys()} - {*get_peft_model_state_dict(model, save_embedding_layers=False)})
    if lost:
        raise ModelError(f"{trained}: the base model has no place for {lost[0]}: an adapter of another model")
