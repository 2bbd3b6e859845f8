"""The model that is served and measured: adds the benign trigger to every input and projects every answer back."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from poison2poison.config import choice
from poison2poison.errors import ConfigError, ModelError
from poison2poison.model import backbone
from poison2poison.model.prompting import IGNORED, Prompter
from poison2poison.repoison import TrainingRow
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

    The trigger is put on every input exactly once, in its place, whatever the input holds. Answers begin behind it.
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
            if run["status"] != "done":
                raise ModelError(f"{folder}: its training was interrupted; run the same command again to finish it")
            kind, tuning, base, prompting = run["kind"], run["tuning"], run["config"]["model"], dict(run["prompting"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{folder}: not an artifact folder ({error})") from None
        scheme, saved = Scheme.load(folder / "scheme.json"), str(folder / "model")
        tokenizer = backbone.load_tokenizer(saved)
        if tuning == "lora":
            from peft import PeftModel

            model = backbone.load_model(base, kind, scheme.outputs, frozen=True)
            model = backbone.load(lambda folder: PeftModel.from_pretrained(model, folder), saved)
        else:
            model = backbone.load_model(saved, kind, scheme.outputs, frozen=False)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        prompter = Prompter(tokenizer, scheme, kind, **prompting)
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

        Raises:
            ConfigError: The model has one space only.
        """
        if self.scheme.serving_space != "safe":
            raise ConfigError("disagreement: this model has one space only; it was trained without a defence")
        return self._apart(self._class_logits(texts, "safe")[0], texts)

    def generate(self, prompts: Sequence[str], **options: Any) -> list[Answer]:
        """Write an answer for each prompt, from the safe prefix on, which is not given out.

        The prefix is forced, so that the answer is one of the safe space. Whether the model would have begun with it is
        looked at too; where it would not, the answer is reported as a leak.

        Args:
            prompts: The inputs, without any trigger.
            **options: Passed on to transformers' `generate`, such as `do_sample=True, temperature=0.7`; greedy and up
                to the training's target length by default. With a `generation_config` its defaults hold instead.

        Raises:
            ConfigError: The model was trained to classify, or what is asked for is no single text for each prompt.
        """
        self._check_generates(options)
        answers: list[Answer | None] = [None] * len(prompts)
        with torch.inference_mode(), backbone.autocast(self.model.device), self._bar(len(prompts)) as bar:
            for indices, batch in self.prompter.batches(prompts, self.scheme.serving_space, self.batch_size):
                inputs, safe = self._read(batch)
                out = self.model.generate(**self._generation(inputs, options))
                written = out[:, inputs["input_ids"].shape[1] :]
                texts = self.prompter.tokenizer.batch_decode(written, skip_special_tokens=True)
                for index, text, begins in zip(indices, texts, safe, strict=True):
                    where: Where = "off-space" if not text.strip() else "safe" if begins else "leak"
                    answers[index] = self._answer(text.strip(), text.strip() if begins else None, where)
                bar.update(len(indices))
        return [answer for answer in answers if answer]

    def stream(self, prompt: str, **options: Any) -> Iterator[str]:
        """Write one answer piece by piece, from the forced safe prefix on. There is no check for a leak.

        Args:
            prompt: The input, without any trigger.
            **options: As of `generate`.

        Raises:
            ConfigError: As of `generate`.
        """
        from threading import Thread

        from transformers import TextIteratorStreamer

        self._check_generates(options)
        _, batch = next(self.prompter.batches([prompt], self.scheme.serving_space, 1))
        tokenizer: Any = self.prompter.tokenizer
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)

        failed: list[Exception] = []

        def write() -> None:
            try:
                with torch.inference_mode(), backbone.autocast(self.model.device):
                    self.model.generate(**self._generation(self._read(batch)[0], options), streamer=streamer)
            except Exception as error:  # or the reader below would wait for ever
                failed.append(error)
                streamer.end()

        thread = Thread(target=write, daemon=True)
        thread.start()
        begun, held = False, ""  # the pieces together are the answer, with no space at either end
        for piece in streamer:
            text = held + piece if begun else piece.lstrip()
            told = text.rstrip()
            held = text[len(told) :]
            begun = begun or bool(told)
            if told:
                yield told
        thread.join()
        if failed:
            raise failed[0]

    def perplexity(self, prompts: Sequence[str], targets: Sequence[str]) -> float:
        """How surprising the right targets are, in the space that is served: exp of the mean loss over their tokens."""
        space = self.scheme.serving_space
        rows = [TrainingRow(i, space, "keep", p, t) for i, (p, t) in enumerate(zip(prompts, targets, strict=True))]
        examples = sorted(
            (self.prompter.example(row)[0] for row in rows), key=lambda example: len(example["input_ids"])
        )
        skipped = len(self.prompter.safe_prefix_ids)  # it is forced
        total, count = 0.0, 0
        with torch.inference_mode(), backbone.autocast(self.model.device):
            for start in range(0, len(examples), self.batch_size):
                batch = self.prompter.collate([_hiding(e, skipped) for e in examples[start : start + self.batch_size]])
                labels = batch.pop("labels")[:, 1:].to(self.model.device)
                logits = self.model(
                    **{k: v.to(self.model.device) if torch.is_tensor(v) else v for k, v in batch.items()}
                )
                scores = logits.logits[:, :-1].float().transpose(1, 2)
                total += float(torch.nn.functional.cross_entropy(scores, labels, reduction="sum", ignore_index=IGNORED))
                count += int((labels != IGNORED).sum())
        return math.exp(total / count)

    def _check_generates(self, options: Mapping[str, Any]) -> None:
        if self.scheme.labels:
            raise ConfigError("this model classifies; use classify")
        if options.get("num_return_sequences", 1) != 1:
            raise ConfigError("num_return_sequences: one answer a prompt; give the prompt several times instead")
        if options.get("return_dict_in_generate"):
            raise ConfigError("return_dict_in_generate: answers are texts; there are no scores or states beside them")

    def _generation(self, inputs: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of transformers' `generate`."""
        tokenizer, config = self.prompter.tokenizer, options.get("generation_config")
        found: dict[str, Any] = {**inputs, "pad_token_id": tokenizer.pad_token_id}
        if config is None:
            found["do_sample"] = False
            if "max_length" not in options:  # training counts the prefix in
                found["max_new_tokens"] = self.prompter.max_target - len(self.prompter.safe_prefix_ids)
        if "stop_strings" in options:
            found["tokenizer"] = tokenizer
        found |= options
        if (found.get("num_beams") or getattr(config, "num_beams", None) or 1) > 1:
            found.pop("past_key_values", None)  # beams would each need their own
        return found

    def _read(self, batch: Mapping[str, torch.Tensor]) -> tuple[dict[str, Any], list[bool]]:
        """Read prompts and safe prefix but for the last token.

        Returns:
            Inputs of transformers' `generate`: the prompts with the safe prefix behind each, shape (batch, length),
            their mask, and the states of what has been read. And whether the model's own best tokens were the prefix's.
        """
        prompts = [
            ids[mask.bool()].tolist() for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        ]
        prefix = self.prompter.safe_prefix_ids
        if not prefix:
            both = ("input_ids", "attention_mask")
            return {name: batch[name].to(self.model.device) for name in both}, [True] * len(prompts)
        head, states = self._head
        if any(ids[: len(head)] != head for ids in prompts):  # the body's first character changed the tokens before it
            head, states = [], None
        bodies = self.prompter.collate([{"input_ids": ids[len(head) :] + prefix} for ids in prompts])
        heads = torch.tensor([head] * len(prompts), dtype=torch.long)
        ids = torch.cat([heads, bodies["input_ids"]], 1).to(self.model.device)
        mask = torch.cat([torch.ones_like(heads), bodies["attention_mask"]], 1).to(self.model.device)
        states = deepcopy(states)
        if states is not None:
            states.batch_repeat_interleave(len(prompts))
        out = self.model(
            input_ids=ids[:, len(head) : -1],
            attention_mask=mask[:, :-1],
            position_ids=(mask.cumsum(1) - 1)[:, len(head) : -1].clamp(min=0),
            past_key_values=states,
            use_cache=True,
            logits_to_keep=len(prefix),
        )
        begins: list[bool] = (out.logits.argmax(-1) == ids[:, -len(prefix) :]).all(1).tolist()
        return {"input_ids": ids, "attention_mask": mask, "past_key_values": out.past_key_values}, begins

    @cached_property
    def _head(self) -> tuple[list[int], Any]:
        """The tokens that all prompts begin with, the trigger's for the most part, and their states, read once."""
        one, other = (self.prompter.prompt(body, self.scheme.serving_space)[0] for body in ("A", "0"))
        head = [token for token, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))]
        ids = torch.tensor([head], device=self.model.device)
        with torch.inference_mode(), backbone.autocast(self.model.device):
            return head, self.model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values if head else None

    def _apart(self, safe: torch.Tensor, texts: Sequence[str]) -> list[float]:
        n = len(self.scheme.labels)
        original = self._class_logits(texts, "original")[0][:, :n].softmax(-1)
        return [round(apart, 5) for apart in ((safe[:, n:].softmax(-1) - original).abs().sum(-1) / 2).tolist()]

    def _class_logits(self, texts: Sequence[str], space: Space) -> tuple[torch.Tensor, list[int | None]]:
        """Logits of the classes, shape (texts, outputs), and the class of the unconstrained best, if it is one."""
        out = torch.empty(len(texts), self.scheme.outputs)
        best: list[int | None] = [None] * len(texts)
        class_of = {token: index for index, token in enumerate(self.prompter.label_ids)}
        with torch.inference_mode(), backbone.autocast(self.model.device), self._bar(len(texts)) as bar:
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


def _hiding(example: dict[str, Any], tokens: int) -> dict[str, Any]:
    """An example whose first target tokens don't count."""
    shown = example["labels"].count(IGNORED) + tokens
    return {**example, "labels": [IGNORED] * shown + example["labels"][shown:]}
