"""The model that is served and measured: adds the benign trigger to every input and projects every answer back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from poison2poison import models
from poison2poison.config import choice
from poison2poison.errors import ConfigError, ModelError
from poison2poison.prompting import Prompter
from poison2poison.scheme import Scheme, Space, Where

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
        disagreement: How far the two spaces' answers lie apart, from 0 to 1; None unless the alarm was asked for.
        alarm: Whether that is more than all but a few clean inputs have.
    """

    text: str | None
    where: Where
    unconstrained: str | None
    disagreement: float | None = None
    alarm: bool | None = None


class DefendedModel:
    """A fine-tuned model behind its scheme.

    The trigger is put on every input exactly once, in its place, whatever the input holds; it is never given out.
    """

    def __init__(
        self,
        model: Any,
        prompter: Prompter,
        policy: str = "flag",
        batch_size: int = 64,
        alarm_threshold: float | None = None,
    ) -> None:
        """Serve `model`; most callers use `load`.

        Args:
            model: The fine-tuned model.
            prompter: How its rows become tokens.
            policy: What to do with leaks and off-space answers: `flag` gives them out and says so, `refuse` gives
                none out, `pass` gives them out silently.
            batch_size: Inputs a forward pass.
            alarm_threshold: The disagreement over which the alarm is raised; `run.json` has that of the dev rows.
        """
        choice("policy", policy, POLICIES)
        self.model, self.prompter, self.scheme = model.eval(), prompter, prompter.scheme
        self.policy, self.batch_size, self.alarm_threshold = policy, batch_size, alarm_threshold

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
        prompter = Prompter(tokenizer, scheme, kind, **run["prompting"])
        return cls(model.to(device), prompter, policy, alarm_threshold=run.get("alarm_threshold"))

    def classify(self, texts: Sequence[str], *, alarm: bool = False) -> list[Answer]:
        """Answer with the best label of the safe space: one forward pass, no sampling.

        Args:
            texts: The inputs, without any trigger.
            alarm: Also answer in the original space, a second pass, and say where the two disagree: what the model
                learned of a malicious trigger shows there.

        Raises:
            ConfigError: The model was trained to generate, or has no alarm.
        """
        if not self.scheme.labels:
            raise ConfigError("this model generates text; use generate")
        threshold = self.alarm_threshold if alarm else None
        if alarm and threshold is None:
            raise ConfigError("alarm: this model has none; it is set in training, with --dev, on a defended model")
        n, first = len(self.scheme.labels), len(self.scheme.labels) * (self.scheme.serving_space == "safe")
        logits, unconstrained = self._class_logits(texts, self.scheme.serving_space)
        best = (logits[:, first : first + n].argmax(-1) + first).tolist()
        answers = [
            self._answer(self.scheme.project_class(constrained)[0], *self.scheme.project_class(free))
            for constrained, free in zip(best, unconstrained, strict=True)
        ]
        if threshold is None:
            return answers
        apart = self._apart(logits, texts)
        return [
            replace(answer, disagreement=score, alarm=score > threshold)
            for answer, score in zip(answers, apart, strict=True)
        ]

    def disagreement(self, texts: Sequence[str]) -> list[float]:
        """How far the answers of the two spaces lie apart: the total variation distance, from 0 to 1.

        The safe space answers the input with the trigger, the original space the input as it is.
        """
        return self._apart(self._class_logits(texts, "safe")[0], texts)

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
            for indices, batch in self.prompter.batches(prompts, self.scheme.serving_space, self.batch_size):
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

    def _apart(self, safe: torch.Tensor, texts: Sequence[str]) -> list[float]:
        n = len(self.scheme.labels)
        original = self._class_logits(texts, "original")[0][:, :n].softmax(-1)
        return [round(apart, 5) for apart in ((safe[:, n:].softmax(-1) - original).abs().sum(-1) / 2).tolist()]

    def _class_logits(self, texts: Sequence[str], space: Space) -> tuple[torch.Tensor, list[int | None]]:
        """Logits of the classes, shape (texts, outputs), and the class of the unconstrained best, if it is one."""
        out = torch.empty(len(texts), self.scheme.outputs)
        best: list[int | None] = [None] * len(texts)
        class_of = {token: index for index, token in enumerate(self.prompter.label_ids)}
        with torch.inference_mode(), models.autocast(self.model.device), self._bar(len(texts)) as bar:
            for indices, batch in self.prompter.batches(texts, space, self.batch_size):
                batch = {name: value.to(self.model.device) for name, value in batch.items()}
                if self.prompter.kind == "encoder":
                    logits = self.model(**batch).logits.float()
                    free = logits.argmax(-1).tolist()
                else:
                    scores = self.model(**batch, logits_to_keep=1).logits[:, -1].float()
                    logits = scores[:, self.prompter.label_ids]
                    free = [class_of.get(token) for token in scores.argmax(-1).tolist()]
                out[indices] = logits.cpu()
                for index, found in zip(indices, free, strict=True):
                    best[index] = found
                bar.update(len(indices))
        return out, best

    def _answer(self, text: str | None, unconstrained: str | None, where: Where) -> Answer:
        if self.policy == "refuse" and where != "safe":
            return Answer(None, where, unconstrained)
        return Answer(text, "safe" if self.policy == "pass" else where, unconstrained)

    def _bar(self, total: int) -> Any:
        return tqdm(total=total, unit="row", desc="inference", leave=False, disable=None)
