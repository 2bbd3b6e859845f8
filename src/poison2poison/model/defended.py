"""The model that is served and measured: adds the benign trigger to every input and projects every answer back.

served   the trigger is put on every input; a policy lets answers out
labels   classify: the best label of the safe space, i + n projected back to i
texts    generate: behind the forced safe prefix, which is cut off
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from poison2poison.config import ModelConfig
from poison2poison.errors import ConfigError, ModelError
from poison2poison.model import backbone, lora
from poison2poison.model.labels import Labels
from poison2poison.model.prompting import Prompter
from poison2poison.model.run import refuse_unfinished
from poison2poison.model.served import Answer, Inputs
from poison2poison.model.texts import Texts
from poison2poison.recipe.scheme import Scheme
from poison2poison.types import ModelKind, PromptingRecord, Tuning

__all__ = ["Answer", "DefendedModel", "Inputs"]


@dataclass(frozen=True)
class _Artifact:
    """What `run.json` says of the model that lies beside it."""

    base: ModelConfig
    kind: ModelKind
    tuning: Tuning
    prompting: PromptingRecord
    alarm_threshold: float | None


class DefendedModel(Labels, Texts):
    """A fine-tuned model behind its scheme.

    The trigger is put on every input exactly once, in its place, whatever the input holds. Answers begin behind it.
    """

    @classmethod
    def load(
        cls, folder: str | Path, *, policy: str = "flag", device: str | None = None, allow_unlearned: bool = False
    ) -> DefendedModel:
        """Load an artifact folder.

        Args:
            folder: What `train` left.
            policy: As of the class.
            device: Where the model computes; a GPU where there is one. It has no say where the configuration spreads
                the layers over devices, or quantizes them.
            allow_unlearned: Load a model too that did not learn the space that it serves.

        Raises:
            ModelError: The folder holds no finished run, or its model cannot be loaded.
            SchemeError: Its scheme is missing, broken or of a newer version.
        """
        folder = Path(folder)
        found = _artifact(folder, allow_unlearned=allow_unlearned)
        prompter = _prompter(folder, found)
        model = _trained_model(found, str(folder / "model"), prompter.scheme.outputs)
        if not (found.base.device_map or found.base.quantize):
            model = model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        return cls(model, prompter, policy, alarm_threshold=found.alarm_threshold, dtype=found.base.dtype)

    def answer(self, texts: Inputs, *, alarm: bool = False) -> list[Answer]:
        """Classify or generate, whichever the model was trained for.

        Raises:
            ConfigError: As of `classify` and `generate`.
            ModelError: As of `classify` and `generate`.
        """
        return self.classify(texts, alarm=alarm) if self.scheme.labels else self.generate(texts, alarm=alarm)

    def disagreement(self, texts: Inputs) -> list[float]:
        """How far the answers of the two spaces lie apart, from 0 to 1, as of `alarm`.

        The safe space answers the input with the trigger, the original space the input as it is.

        Raises:
            ConfigError: The model has one space only; or `texts` is a lone input.
            ModelError: The model's outputs are not finite.
        """
        if self.scheme.serving_space != "safe":
            raise ConfigError("disagreement: this model has one space only; it was trained without a defence")
        if self.scheme.labels:
            return self._labels_apart(self.scored(texts, "safe").logits, texts)
        written, _ = self.in_space("safe")._write(texts, {})
        return self._texts_apart(texts, written)


def load_prompter(folder: str | Path, *, allow_unlearned: bool = False) -> Prompter:
    """How an artifact folder's rows become tokens, for who has its weights elsewhere.

    Raises:
        ModelError: The folder holds no finished run.
        SchemeError: Its scheme is missing, broken or of a newer version.
    """
    folder = Path(folder)
    return _prompter(folder, _artifact(folder, allow_unlearned=allow_unlearned))


def load_alarm_threshold(folder: str | Path, *, allow_unlearned: bool = False) -> float | None:
    """The disagreement over which the alarm of an artifact folder's model is raised; None where it has none.

    Raises:
        ModelError: As of `load_prompter`.
    """
    return _artifact(Path(folder), allow_unlearned=allow_unlearned).alarm_threshold


def _prompter(folder: Path, found: _Artifact) -> Prompter:
    scheme = Scheme.load(folder / "scheme.json")
    tokenizer = backbone.load_tokenizer(str(folder / "model"))
    return Prompter(tokenizer, scheme, found.kind, **found.prompting)


def _artifact(folder: Path, *, allow_unlearned: bool) -> _Artifact:
    """Read `run.json`, of this version or an older one.

    Raises:
        ModelError: It is missing or broken, or its run left no model that may serve.
    """
    known = {field.name for field in fields(ModelConfig)}  # an older run has not all, and a run has more
    try:
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        refuse_unfinished(folder, run, allow_unlearned=allow_unlearned)
        given = {name: value for name, value in run["config"].items() if name in known}
        base = ModelConfig(**given)
        base = replace(base, revision=run.get("revision") or base.revision)  # the branch may have moved since
        prompting: Any = dict(run["prompting"])
        return _Artifact(base, run["kind"], run["tuning"], prompting, run.get("alarm_threshold"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{folder}: not an artifact folder ({error})") from None


def _trained_model(found: _Artifact, saved: str, outputs: int) -> Any:
    """The base model with the saved adapter on it, or the saved model.

    Raises:
        ModelError: It cannot be loaded.
    """
    if found.tuning == "lora":
        base = backbone.load_model(found.base, found.kind, outputs, frozen=True)
        return lora.load_adapter(base, saved)
    own = replace(found.base, model=saved, revision=None)
    return backbone.load_model(own, found.kind, outputs, frozen=False, with_head=True)
