"""The model that is served and measured: adds the benign trigger to every input and projects every answer back."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList

from poison2poison.config import ModelConfig, choice
from poison2poison.data import Messages, Row, as_row
from poison2poison.errors import ConfigError, ModelError
from poison2poison.model import backbone, hardware, lora
from poison2poison.model.loss import IGNORED, only_target_logits, target_loss
from poison2poison.model.prompting import Prompter
from poison2poison.recipe.manifest import training_row
from poison2poison.recipe.scheme import Scheme, Space, Where

POLICIES = ("flag", "refuse", "pass")
# Ways of generating that read the prompt on their own.
ASSISTED = ("assistant_model", "prompt_lookup_num_tokens", "guidance_scale", "penalty_alpha")
ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}  # layers that keep what they read by position


Inputs = Sequence[str | Messages | Row]
"""What is to be answered: texts, chats as lists of messages, or rows."""


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
        dtype: str = "auto",
    ) -> None:
        """Serve `model`; most callers use `load`.

        Args:
            model: The fine-tuned model.
            prompter: How its rows become tokens.
            policy: What to do with leaks and off-space answers: `flag` gives them out and says so, `refuse` gives
                none out, `pass` gives them out silently.
            batch_size: Inputs a forward pass.
            alarm_threshold: The disagreement over which the alarm is raised; `run.json` has that of the dev rows.
            dtype: The number format that the model was trained with, as of `ModelConfig`.
        """
        choice("policy", policy, POLICIES)
        self.model, self.prompter, self.scheme = model.eval(), prompter, prompter.scheme
        self.policy, self.alarm_threshold = policy, alarm_threshold
        self.batch_size = batch_size if backbone.pads(model) else 1
        self.space: Space = self.scheme.serving_space
        self.dtype = dtype

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
        try:
            run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            _refuse_unfinished(folder, run, allow_unlearned=allow_unlearned)
            kind, tuning, prompting = run["kind"], run["tuning"], dict(run["prompting"])
            names = {field.name for field in fields(ModelConfig)}  # an older run has not all, and a run has more
            base = ModelConfig(**{name: value for name, value in run["config"].items() if name in names})
            base = replace(base, revision=run.get("revision") or base.revision)  # the branch may have moved since
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{folder}: not an artifact folder ({error})") from None
        scheme, saved = Scheme.load(folder / "scheme.json"), str(folder / "model")
        tokenizer = backbone.load_tokenizer(saved)
        if tuning == "lora":
            model = lora.load_adapter(backbone.load_model(base, kind, scheme.outputs, frozen=True), saved)
        else:
            own = replace(base, model=saved, revision=None)
            model = backbone.load_model(own, kind, scheme.outputs, frozen=False, with_head=True)
        if not (base.device_map or base.quantize):
            model = model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        prompter = Prompter(tokenizer, scheme, kind, **prompting)
        return cls(model, prompter, policy, alarm_threshold=run.get("alarm_threshold"), dtype=base.dtype)

    def in_space(self, space: Space) -> DefendedModel:
        """The same model answering in another space: for measurements, it is no defence there."""
        other = copy(self)
        other.space = space
        return other

    def answer(self, texts: Inputs) -> list[Answer]:
        """Classify or generate, whichever the model was trained for.

        Raises:
            ConfigError: As of `classify` and `generate`.
            ModelError: As of `classify` and `generate`.
        """
        return self.classify(texts) if self.scheme.labels else self.generate(texts)

    def classify(self, texts: Inputs, *, alarm: bool = False) -> list[Answer]:
        """Answer with the best label of the space that is served: one forward pass, no sampling.

        Args:
            texts: The inputs, without any trigger: texts, chats as lists of messages, or rows.
            alarm: Also answer in the original space, a second pass, and say where the two disagree: what the model
                learned of a malicious trigger shows there.

        Raises:
            ConfigError: The model was trained to generate, or has no alarm; or `texts` is a lone input.
            ModelError: The model's outputs are not finite.
        """
        if not self.scheme.labels:
            raise ConfigError("this model generates text; use generate")
        threshold = self.alarm_threshold if alarm else None
        if alarm and threshold is None:
            raise ConfigError("alarm: this model has none; it is set in training, with --dev, on a defended model")
        logits, unconstrained = self._class_logits(texts, self.space)
        best = self._of_space(logits, self.space).argmax(-1).tolist()
        answers = [
            self._answer(self.scheme.labels[index], *free) for index, free in zip(best, unconstrained, strict=True)
        ]
        if threshold is None:
            return answers
        apart = self._apart(logits, texts)
        return [
            replace(answer, disagreement=score, alarm=score > threshold)
            for answer, score in zip(answers, apart, strict=True)
        ]

    def disagreement(self, texts: Inputs) -> list[float]:
        """How far the answers of the two spaces lie apart: the total variation distance, from 0 to 1.

        The safe space answers the input with the trigger, the original space the input as it is.

        Raises:
            ConfigError: The model has one space only; or `texts` is a lone input.
            ModelError: The model's outputs are not finite.
        """
        if self.scheme.serving_space != "safe":
            raise ConfigError("disagreement: this model has one space only; it was trained without a defence")
        return self._apart(self._class_logits(texts, "safe")[0], texts)

    def generate(self, prompts: Inputs, **options: Any) -> list[Answer]:
        """Write an answer for each prompt, from the safe prefix on, which is not given out.

        The prefix is forced, so that the answer is one of the safe space. Whether the model would have begun with it is
        looked at too; where it would not, the answer is reported as a leak.

        Args:
            prompts: The inputs, without any trigger: texts, chats as lists of messages, or rows.
            **options: Passed on to transformers' `generate`, such as `do_sample=True, temperature=0.7`; greedy and up
                to the training's target length by default. With a `generation_config` its defaults hold instead.

        Raises:
            ConfigError: The model was trained to classify, or what is asked for is no single text for each prompt; or
                `prompts` is a lone input.
            ModelError: The model's outputs are not finite.
        """
        self._check_generates(options)
        _refuse_lone(prompts)
        answers: list[Answer | None] = [None] * len(prompts)
        with torch.inference_mode(), hardware.autocast(self.model.device, self.dtype), self._bar(len(prompts)) as bar:
            for indices, batch in self.prompter.batches(prompts, self.space, self.batch_size):
                inputs, safe = self._read(batch)
                out = self.model.generate(**self._generation(inputs, options))
                written = out[:, inputs["input_ids"].shape[1] :]
                texts = self.prompter.tokenizer.batch_decode(written, skip_special_tokens=True)
                for index, text, begins in zip(indices, texts, safe, strict=True):
                    where: Where = "off-space" if not text.strip() else "safe" if begins else "leak"
                    answers[index] = self._answer(text.strip(), text.strip() if begins else None, where)
                bar.update(len(indices))
        return [answer for answer in answers if answer]

    def stream(self, prompt: str | Messages | Row, **options: Any) -> Iterator[str]:
        """Write one answer piece by piece, from the forced safe prefix on. There is no check for a leak.

        Args:
            prompt: The input, without any trigger: a text, or a chat as a list of messages.
            **options: As of `generate`.

        Raises:
            ConfigError: As of `generate`.
            ModelError: As of `generate`.
        """
        from threading import Thread

        from transformers import TextIteratorStreamer

        self._check_generates(options)
        _, batch = next(self.prompter.batches([prompt], self.space, 1))
        tokenizer: Any = self.prompter.tokenizer
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)

        failed: list[Exception] = []

        def write() -> None:
            try:
                with torch.inference_mode(), hardware.autocast(self.model.device, self.dtype):
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

    def perplexity(self, prompts: Inputs, targets: Sequence[str]) -> float:
        """How surprising the right targets are, in the space that is served: exp of the mean loss over their tokens.

        Raises:
            ConfigError: `prompts` or `targets` is a lone input.
            ModelError: The model's outputs are not finite.
        """
        _refuse_lone(prompts)
        _refuse_lone(targets)
        asked = [replace(as_row(one), target=target) for one, target in zip(prompts, targets, strict=True)]
        rows = [training_row(i, row, self.space, "keep") for i, row in enumerate(asked)]
        examples = sorted(self.prompter.examples(rows)[0], key=lambda example: len(example["input_ids"]))
        skipped = len(self._prefix)  # it is forced
        total, count = 0.0, 0
        with torch.inference_mode(), hardware.autocast(self.model.device, self.dtype):
            for start in range(0, len(examples), self.batch_size):
                chosen = [_hiding(example, skipped) for example in examples[start : start + self.batch_size]]
                batch = self.prompter.training_batch(chosen)
                ids, labels = (batch[name].to(self.model.device) for name in ("input_ids", "labels"))
                with only_target_logits(self.model, labels):
                    loss = float(target_loss(self.model(input_ids=ids).logits, labels))
                self._refuse_unless_finite(torch.tensor(loss))
                total += loss
                count += int((labels != IGNORED).sum())
        return math.exp(total / count)

    @property
    def _prefix(self) -> list[int]:
        """Tokens that every answer is made to begin with."""
        return self.prompter.safe_prefix_ids if self.space == "safe" else []

    def _check_generates(self, options: Mapping[str, Any]) -> None:
        if self.scheme.labels:
            raise ConfigError("this model classifies; use classify")
        if options.get("num_return_sequences", 1) != 1:
            raise ConfigError("num_return_sequences: one answer a prompt; give the prompt several times instead")
        if options.get("return_dict_in_generate"):
            raise ConfigError("return_dict_in_generate: answers are texts; there are no scores or states beside them")

    def _generation(self, inputs: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of transformers' `generate`."""
        tokenizer, config = self.prompter.tokenizer, deepcopy(options.get("generation_config"))
        ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": self._ends(config)}
        found = dict(inputs)
        if config is not None:
            config.update(**ends)  # beside a configuration, arguments of the same kind are not welcome
        else:
            found |= {**ends, "do_sample": False}
            if "max_length" not in options:  # training counts the prefix in
                found["max_new_tokens"] = self.prompter.max_target - len(self._prefix)
        if "stop_strings" in options:
            found["tokenizer"] = tokenizer
        found |= options
        found["logits_processor"] = LogitsProcessorList([_Finite(self), *options.get("logits_processor", ())])
        if config is not None:
            found["generation_config"] = config
        if not self._is_plain(found):
            found.pop("past_key_values", None)
        return found

    def _ends(self, config: Any) -> list[int]:
        """Tokens that end an answer: the one that training ends targets with, and those that the model ends turns with.

        The two differ for some chat models.
        """
        given = config.eos_token_id if config is not None else None
        own = self.model.generation_config.eos_token_id if given is None else given
        return sorted({self.prompter.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None})

    def _is_plain(self, found: Mapping[str, Any]) -> bool:
        """Whether one sequence a prompt is written, token by token, with the states where the model has put them."""
        configs = [found.get("generation_config"), self.model.generation_config]

        def asked(name: str) -> Any:
            values = (found.get(name), *(getattr(config, name, None) for config in configs))
            return next((value for value in values if value is not None), None)

        return (
            (asked("num_beams") or 1) == 1
            and asked("use_cache") is not False
            and not any(asked(name) for name in ("cache_implementation", "prefill_chunk_size", *ASSISTED))
        )

    def _read(self, batch: Mapping[str, torch.Tensor]) -> tuple[dict[str, Any], list[bool]]:
        """Read prompts and safe prefix except for the last token.

        Returns:
            Inputs of transformers' `generate`: the prompts with the safe prefix behind each, shape (batch, length),
            their mask, and the states of what has been read, where `generate` can go on from them. And whether the
            model's own best tokens were the prefix's.
        """
        prefix = self._prefix
        ids, mask = self._with_prefix(batch, prefix)
        if not prefix:
            return {"input_ids": ids, "attention_mask": mask}, [True] * len(ids)
        out = self.model(
            input_ids=ids[:, :-1],
            attention_mask=mask[:, :-1],
            position_ids=(mask.cumsum(1) - 1)[:, :-1].clamp(min=0),
            use_cache=self._goes_on,
            logits_to_keep=len(prefix),
        )
        scores = out.logits[:, -len(prefix) :]
        self._refuse_unless_finite(scores.amax(-1))
        begins: list[bool] = (scores.argmax(-1) == ids[:, -len(prefix) :]).all(1).tolist()
        inputs = {"input_ids": ids, "attention_mask": mask}
        states = getattr(out, "past_key_values", None) if self._goes_on else None
        return (inputs | {"past_key_values": states} if isinstance(states, DynamicCache) else inputs), begins

    @cached_property
    def _goes_on(self) -> bool:
        """Whether `generate` may begin with the states that a forward pass left.

        Attention keeps them token by token. A recurrent layer keeps one for all that it has read, and each kind of them
        continues in a way of its own: those models read the prompts twice.
        """
        layers = getattr(self.model.config.get_text_config(decoder=True), "layer_types", None) or []
        recurrent = getattr(self.model, "_is_stateful", False) or not ATTENTION.issuperset(layers)
        # Qwen's VL models take the positions behind states from what they generated last, in whatever batch.
        stale = any(hasattr(part, "rope_deltas") for part in self.model.modules())
        return not recurrent and not stale

    def _apart(self, safe: torch.Tensor, texts: Inputs) -> list[float]:
        original = self._of_space(self._class_logits(texts, "original")[0], "original").softmax(-1)
        distance = (self._of_space(safe, "safe").softmax(-1) - original).abs().sum(-1) / 2
        return [round(apart, 5) for apart in distance.tolist()]

    def _of_space(self, logits: torch.Tensor, space: Space) -> torch.Tensor:
        """The logits of a space's labels, shape (texts, labels), of those of all classes."""
        first = self.scheme.shift if space == "safe" else 0
        return logits[:, first : first + len(self.scheme.labels)]

    def _class_logits(self, texts: Inputs, space: Space) -> tuple[torch.Tensor, list[tuple[str | None, Where]]]:
        """Logits of the classes, shape (texts, outputs), and the unconstrained best projected, with where it lies."""
        _refuse_lone(texts)
        out = torch.empty(len(texts), self.scheme.outputs)
        best: list[tuple[str | None, Where]] = [(None, "off-space")] * len(texts)
        class_of = {token: index for index, token in enumerate(self.prompter.label_ids)}
        prefix = self.prompter.safe_prefix_ids if space == "safe" else []
        with (
            torch.inference_mode(),
            hardware.autocast(self.model.device, self.dtype),
            self._bar(len(texts)) as bar,
        ):
            for indices, batch in self.prompter.batches(texts, space, self.batch_size):
                if self.prompter.kind == "encoder":
                    batch = {name: value.to(self.model.device) for name, value in batch.items()}
                    logits = scores = self.model(**batch).logits.float()
                    free = [self.scheme.project_class(index) for index in logits.argmax(-1).tolist()]
                else:
                    scores, begins, firsts = self._label_scores(batch, prefix)
                    logits = scores[:, self.prompter.label_ids]
                    # Where the model does not begin with the prefix, what it would have begun with is its answer.
                    tokens = torch.where(begins, scores.argmax(-1), firsts).tolist()
                    free = [
                        self.scheme.project_class(class_of.get(token), prefixed=began)
                        for token, began in zip(tokens, begins.tolist(), strict=True)
                    ]
                self._refuse_unless_finite(logits, scores.amax(-1))  # beyond the vocabulary there may be -inf
                out[indices] = logits.cpu()
                for index, found in zip(indices, free, strict=True):
                    best[index] = found
                bar.update(len(indices))
        return out, best

    def _label_scores(
        self, batch: Mapping[str, torch.Tensor], prefix: list[int]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Read prompts with the safe prefix behind each, which is forced, in one pass.

        Returns:
            Scores of the token behind, shape (batch, vocabulary); whether the model's own best tokens were the
            prefix's, shape (batch,), always where there is none; and its own best first token, shape (batch,).
        """
        ids, mask = self._with_prefix(batch, prefix)
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            logits_to_keep=len(prefix) + 1,
        )
        scores = out.logits[:, -len(prefix) - 1 :].float()  # (batch, prefix and label, vocabulary)
        own = scores.argmax(-1)
        begins = (own[:, :-1] == ids[:, ids.shape[1] - len(prefix) :]).all(1)
        return scores[:, -1], begins, own[:, 0]

    def _with_prefix(self, batch: Mapping[str, torch.Tensor], prefix: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Prompts with the safe prefix behind each, and their mask, on the model's device: shape (batch, length)."""
        ids, mask = (batch[name].to(self.model.device) for name in ("input_ids", "attention_mask"))
        behind = torch.tensor([prefix], dtype=torch.long, device=ids.device).expand(len(ids), -1)
        return torch.cat([ids, behind], 1), torch.nn.functional.pad(mask, (0, len(prefix)), value=1)

    def _refuse_unless_finite(self, *scores: torch.Tensor) -> None:
        if not all(bool(part.isfinite().all()) for part in scores):
            raise ModelError(
                f"{self.model.config.name_or_path}: the model's outputs are not finite (NaN or infinite); nothing is "
                "measured on it. Its weights may be broken, or the number format or the attention kernel is at fault: "
                "try --dtype float32 or --attention eager"
            )

    def _answer(self, text: str | None, unconstrained: str | None, where: Where) -> Answer:
        if self.policy == "refuse" and where != "safe":
            return Answer(None, where, unconstrained)
        return Answer(text, "safe" if self.policy == "pass" else where, unconstrained)

    def _bar(self, total: int) -> Any:
        return tqdm(total=total, unit="row", desc="inference", leave=False, disable=None)


class _Finite(LogitsProcessor):
    """Refuses scores that are not finite, at every step: greedy search takes NaN for the best token."""

    def __init__(self, model: DefendedModel) -> None:
        self.model = model

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self.model._refuse_unless_finite(scores.amax(-1))
        return scores


def _refuse_unfinished(folder: Path, run: Mapping[str, Any], *, allow_unlearned: bool) -> None:
    """Refuse a run that left no model that may serve."""
    status = run["status"]
    if status == "running":
        raise ModelError(f"{folder}: its training was interrupted; run the same command again to finish it")
    if status == "failed":
        raise ModelError(f"{folder}: its training failed: {run['reason']}")
    if status == "unlearned" and not allow_unlearned:
        raise ModelError(
            f"{folder}: {run['reason']}. To load it all the same, give --allow-unlearned, in Python "
            "allow_unlearned=True"
        )
    if status not in ("done", "unlearned"):
        raise ModelError(f"{folder}: its status {status!r} is not known to this version")


def _refuse_lone(asked: Inputs | Sequence[str]) -> None:
    """Refuse one input where a list of inputs is needed."""
    if isinstance(asked, str):
        raise ConfigError(
            "texts: a list of texts is needed, not a string, whose characters would be answered one by one"
        )
    if any(isinstance(one, Mapping) for one in asked):
        raise ConfigError("texts: a list of chats is needed, not one chat; put it into a list")


def _hiding(example: dict[str, Any], tokens: int) -> dict[str, Any]:
    """An example whose first target tokens don't count."""
    shown = example["labels"].count(IGNORED) + tokens
    return {**example, "labels": [IGNORED] * shown + example["labels"][shown:]}
