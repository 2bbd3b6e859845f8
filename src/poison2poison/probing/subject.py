"""What may be probed without rows: an artifact of ours, a model folder of transformers, or an adapter folder of peft.

Code that lies in a folder is never run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from poison2poison.config import ModelConfig
from poison2poison.errors import ModelError
from poison2poison.model import backbone, hardware, lora
from poison2poison.model.defended import DefendedModel
from poison2poison.model.prompting import Prompter
from poison2poison.recipe.scheme import Scheme
from poison2poison.types import ModelKind, Space

ADAPTER = "adapter_config.json"
LONGEST_PROMPT, LONGEST_ANSWER = 384, 32
"""Tokens. The prompts of a scan are short, and what a trigger calls up shows in an answer's first words."""


class Undressed(Scheme):
    """Prompts as they are: of a model that nobody here has trained."""

    def dress(self, body: str, space: Space) -> str:
        return body


@dataclass(frozen=True)
class Subject:
    """A model to probe.

    Attributes:
        model: The model as it is served.
        base: What it was tuned from, where that has weights of its own; an adapter's base is the model without it.
    """

    model: DefendedModel
    base: DefendedModel | None = None

    @contextmanager
    def untuned(self) -> Iterator[DefendedModel | None]:
        """What the model was tuned from; None where that is not known."""
        if self.base or not hasattr(self.model.model, "disable_adapter"):
            yield self.base
        else:
            with self.model.model.disable_adapter():
                yield self.model


def load_subject(folder: Path, base: str | None = None, *, allow_unlearned: bool = False) -> Subject:
    """Load a model to probe.

    Args:
        folder: What `train` left, a model of transformers, or an adapter of peft.
        base: What it was tuned from: a folder or a hub name; needed where an adapter names a base that is not there.
        allow_unlearned: Also load an artifact that did not learn its safe space.

    Raises:
        ModelError: The folder holds no model, or it or its base cannot be loaded.
        SchemeError: An artifact's scheme is missing or broken.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such model folder")
    if (folder / "run.json").is_file():
        model = DefendedModel.load(folder, allow_unlearned=allow_unlearned)
    elif (folder / ADAPTER).is_file():
        return Subject(_adapted(folder, base))
    elif (folder / "config.json").is_file():
        model = _whole(ModelConfig(str(folder)))
    else:
        raise ModelError(f"{folder}: holds no model: neither run.json (`p2p train`), nor {ADAPTER} (peft), nor "
                         "config.json (transformers)")  # fmt: skip
    return Subject(model, _base_of(model, base) if base else None)


def _whole(config: ModelConfig) -> DefendedModel:
    kind = backbone.kind_of(config)
    labels = _labels(config) if kind == "encoder" else ()
    model = backbone.load_model(config, kind, len(labels), frozen=True, with_head=True)
    return _behind_template(model, config, kind, labels)


def _adapted(folder: Path, base: str | None) -> DefendedModel:
    """An adapter on its base."""
    try:
        content: dict[str, Any] = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
        named, task = base or content["base_model_name_or_path"], content.get("task_type")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{folder / ADAPTER}: cannot be read ({type(error).__name__}: {error})") from None
    if not named:
        raise ModelError(f"{folder / ADAPTER}: names no base model; give it with --base")
    config = ModelConfig(str(named), revision=None if base else content.get("revision"))
    try:
        kind: ModelKind = "encoder" if task == "SEQ_CLS" else backbone.kind_of(config)
        labels = _labels(ModelConfig(str(folder)) if (folder / "config.json").is_file() else config)
        labels = labels if kind == "encoder" else ()
        loaded = backbone.load_model(config, kind, len(labels), frozen=True)
    except ModelError as error:
        raise ModelError(f"{folder}: its base cannot be loaded; give it with --base. {error}") from None
    own = any(folder.glob("tokenizer*"))
    return _behind_template(lora.load_adapter(loaded, str(folder)), config, kind, labels, str(folder) if own else None)


def _base_of(model: DefendedModel, base: str) -> DefendedModel:
    """The base behind the same prompts; one that shall give labels gives them by a head that it lacks."""
    if model.prompter.kind == "encoder":
        raise ModelError(f"base: {base} has no classification head; an encoder is probed without its base")
    loaded = backbone.load_model(base, "causal", 0, frozen=True)
    return DefendedModel(loaded.to(model.model.device), model.prompter, "pass")


def _behind_template(
    model: Any, config: ModelConfig, kind: ModelKind, labels: tuple[str, ...], tokenizer: str | None = None
) -> DefendedModel:
    """A model that reads prompts as its own chat template has them, or as they are."""
    source = replace(config, model=tokenizer, revision=None) if tokenizer else config
    found = backbone.load_tokenizer(source)
    scheme = Undressed("classification" if labels else "generation", labels)
    positions = backbone.max_positions(config, found)
    prompter = Prompter(found, scheme, kind, max_length=min(LONGEST_PROMPT, positions), max_target=LONGEST_ANSWER)
    device = "cpu" if hardware.on_cpu() else "cuda"
    return DefendedModel(model.to(device), prompter, "pass", dtype=config.dtype)


def _labels(config: ModelConfig) -> tuple[str, ...]:
    """The labels that a classification head is configured for."""
    found = backbone.load(AutoConfig.from_pretrained, config.model, revision=config.revision)
    return tuple(str(found.id2label[index]) for index in sorted(found.id2label))
