"""The model that is served and measured: adds the benign trigger to every input and projects every answer back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from poison2poison import models
from poison2poison.config import choice
from poison2poison.errors import ConfigError, ModelError
from poison2poison.prompting import Prompter
from poison2poison.scheme import Scheme, Where

POLICIES = ("flag", "refuse", "pass")


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, projected back.

    Attributes:
        text: The label or text to give out; None where the policy refuses it.
        where: Where the model's unconstrained answer lies: in the safe space, in the original one (a leak), or in
            neither (off-space). Without a defence, `safe` stands for any legal answer. Under policy `pass`, always
            `safe`.
        unconstrained: The projected answer without the constraint to the safe labels; None if it is no label at all.
    """

    text: str | None
    where: Where
    unconstrained: str | None


class DefendedModel:
    """A fine-tuned model behind its scheme.

    The trigger is put on every input exactly once, in its place, whatever the input holds; it is never given out.
    """

    def __init__(self, model: Any, prompter: Prompter, policy: str = "flag", batch_size: int = 64) -> None:
        """Serve `model`; most callers use `load`.

        Args:
            model: The fine-tuned model.
            prompter: How its rows become tokens.
            policy: What to do with leaks and off-space answers: `flag` gives them out and says so, `refuse` gives
                none out, `pass` gives them out silently.
            batch_size: Inputs a forward pass.
        """
        choice("policy", policy, POLICIES)
        self.model, self.prompter, self.scheme = model.eval(), prompter, prompter.scheme
        self.policy, self.batch_size = policy, batch_size

    @classmethod
    def load(cls, folder: str | Path, *, policy: str = "flag", device: str | None = None) -> DefendedModel:
        """Load an artifact folder.

        Raises:
            ModelError: The folder holds no finished run, or its model cannot be loaded.
            SchemeError: Its scheme is missing, broken or of a newer version.
        """
        folder = Path(folder)
        try:
            run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{folder}: not an artifact folder ({error})") from None
        if run["status"] != "done":
            raise ModelError(f"{folder}: its training was interrupted; run the same command again to finish it")
        scheme = Scheme.load(folder / "scheme.json")
        kind, saved = run["kind"], str(folder / "model")
        tokenizer = models.load_tokenizer(saved)
        if run["tuning"] == "lora":
            from peft import PeftModel

            model = models.load_model(run["config"]["model"], kind, scheme.outputs)
            model = PeftModel.from_pretrained(model, saved)
        else:
            model = models.load_model(saved, kind, scheme.outputs)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(model.to(device), Prompter(tokenizer, scheme, kind, **run["prompting"]), policy)

    def classify(self, texts: Sequence[str]) -> list[Answer]:
        """Answer with the best label of the safe space: one forward pass, no sampling.

        Raises:
            ConfigError: The model was trained to generate.
        """
        if not self.scheme.labels:
            raise ConfigError("this model generates text; use generate")
        n, first = len(self.scheme.labels), len(self.scheme.labels) * (self.scheme.serving_space == "safe")
        answers: list[Answer | None] = [None] * len(texts)
        with torch.inference_mode(), models.autocast(self.model.device), self._bar(len(texts)) as bar:
            for indices, batch in self.prompter.batches(texts, self.batch_size):
                logits, unconstrained = self._class_logits(batch)
                best = (logits[:, first : first + n].argmax(-1) + first).tolist()
                for index, constrained, free in zip(indices, best, unconstrained, strict=True):
                    label, _ = self.scheme.project_class(constrained)
                    answers[index] = self._answer(label, *self.scheme.project_class(free))
                bar.update(len(indices))
        return [answer for answer in answers if answer]

    def generate(self, prompts: Sequence[str], **options: Any) -> list[Answer]:
        """Write an answer for each prompt and cut the safe prefix off.

        Args:
            prompts: The inputs, without any trigger.
            **options: Passed on to transformers' `generate`; greedy and up to the training's target length by default.

        Raises:
            ConfigError: The model was trained to classify.
        """
        if self.scheme.labels:
            raise ConfigError("this model classifies; use classify")
        tokenizer = self.prompter.tokenizer
        options = {"max_new_tokens": self.prompter.max_target, "do_sample": False} | options
        answers: list[Answer | None] = [None] * len(prompts)
        with torch.inference_mode(), models.autocast(self.model.device), self._bar(len(prompts)) as bar:
            for indices, batch in self.prompter.batches(prompts, self.batch_size):
                ids = batch["input_ids"].to(self.model.device)
                mask = batch["attention_mask"].to(self.model.device)
                pad = tokenizer.pad_token_id
                out = self.model.generate(input_ids=ids, attention_mask=mask, pad_token_id=pad, **options)
                texts = tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
                for index, text in zip(indices, texts, strict=True):
                    projected, where = self.scheme.project_text(text)
                    answers[index] = self._answer(projected, projected, where)
                bar.update(len(indices))
        return [answer for answer in answers if answer]

    def _class_logits(self, batch: dict[str, Any]) -> tuple[torch.Tensor, list[int | None]]:
        """Logits of the classes, shape (batch, outputs), and the class of the unconstrained best, if it is one."""
        batch = {name: value.to(self.model.device) for name, value in batch.items()}
        if self.prompter.kind == "encoder":
            logits = self.model(**batch).logits.float()
            return logits, logits.argmax(-1).tolist()
        logits = self.model(**batch, logits_to_keep=1).logits[:, -1].float()
        class_of = {token: index for index, token in enumerate(self.prompter.label_ids)}
        return logits[:, self.prompter.label_ids], [class_of.get(token) for token in logits.argmax(-1).tolist()]

    def _answer(self, text: str | None, unconstrained: str | None, where: Where) -> Answer:
        if self.policy == "refuse" and where != "safe":
            return Answer(None, where, unconstrained)
        return Answer(text, "safe" if self.policy == "pass" else where, unconstrained)

    def _bar(self, total: int) -> Any:
        return tqdm(total=total, unit="row", desc="inference", leave=False, disable=None)
