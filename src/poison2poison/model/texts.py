"""Texts: written from the forced safe prefix on, which is cut off; what the model had begun with is looked at too."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import cached_property
from itertools import takewhile
from threading import Thread, get_ident
from typing import Any

import torch
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList, TextIteratorStreamer
from transformers.cache_utils import DynamicLayer

from poison2poison.data import Messages, Row, as_row
from poison2poison.errors import ConfigError
from poison2poison.model import alarm as alarms
from poison2poison.model import backbone
from poison2poison.model.following import Follower, Heard, stripped
from poison2poison.model.loss import IGNORED, edges, hiding, only_target_logits, target_logits, token_losses
from poison2poison.model.served import Answer, Inputs, Served, refuse_lone
from poison2poison.recipe.manifest import training_row
from poison2poison.types import Space

ASSISTED = ("assistant_model", "prompt_lookup_num_tokens", "guidance_scale", "penalty_alpha")
"""Ways of generating that read the prompt on their own."""
ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}
"""Layers that keep what they read by position."""


class Texts(Served):
    """A served model that writes."""

    def generate(
        self, prompts: Inputs, *, alarm: bool = False, heard: Heard | None = None, **options: Any
    ) -> list[Answer]:
        """Write an answer for each prompt, from the safe prefix on, which is not given out.

        The prefix is forced, so that the answer is one of the safe space. Whether the model would have begun with it is
        looked at too; where it would not, the answer is reported as a leak.

        Args:
            prompts: The inputs, without any trigger: texts, chats as lists of messages, or rows.
            alarm: Also read the answers in both spaces, two more passes, and say where these disagree: what the model
                learned of a malicious trigger shows there.
            heard: Called after each token with what is written so far. No policy has let it out.
            **options: Passed on to transformers' `generate`, such as `do_sample=True, temperature=0.7`; greedy and up
                to the training's target length by default. With a `generation_config` its defaults hold instead.

        Raises:
            ConfigError: The model was trained to classify, or what is asked for is no single text for each prompt; it
                has no alarm; or `prompts` is a lone input.
            ModelError: The model's outputs are not finite.
        """
        self._check_generates(options)
        refuse_lone(prompts)
        over = self._alarm_threshold() if alarm else None
        texts, begins = self._write(prompts, options, heard)
        answers = [self._project_text(*found) for found in zip(texts, begins, strict=True)]
        return answers if over is None else alarms.raised(answers, self._texts_apart(prompts, texts), over)

    def _write(
        self, prompts: Inputs, options: Mapping[str, Any], heard: Heard | None = None
    ) -> tuple[list[str], list[bool]]:
        """What is written behind the safe prefix of each prompt, and whether the model would have begun with it."""
        texts, begins = [""] * len(prompts), [True] * len(prompts)
        with self._computing(), self._bar(len(prompts)) as bar:
            for indices, batch in self._dressed(prompts, self.space):
                asked = self._generation(self._forced(batch), options)
                own: list[bool] = []
                if heard:
                    asked["streamer"] = Follower(self.prompter.tokenizer, heard, indices, own)
                out = self._generated(asked, own)
                written = out[:, asked["input_ids"].shape[1] :]  # (batch, new tokens): the prefix is cut off
                told = self.prompter.tokenizer.batch_decode(written, skip_special_tokens=True)
                for index, text, begin in zip(indices, told, own, strict=True):
                    texts[index], begins[index] = text.strip(), begin
                bar.update(len(indices))
        return texts, begins

    def _texts_apart(self, prompts: Inputs, texts: Sequence[str]) -> list[float]:
        """The distance of the safe space's answers to those of the original space."""
        ours, theirs = self.losses(prompts, texts, "safe"), self.losses(prompts, texts, "original")
        return alarms.of_texts(ours, theirs)

    def _project_text(self, text: str, begins: bool) -> Answer:
        """What was written behind the prefix, as an answer: a leak where the model would not have begun with it."""
        where = self.scheme.place(text, prefixed=begins)
        return self._let_out(text, text if begins else None, where)

    def stream(self, prompt: str | Messages | Row, **options: Any) -> Iterator[str]:
        """Write one answer piece by piece, from the forced safe prefix on. There is no check for a leak.

        Args:
            prompt: The input, without any trigger: a text, or a chat as a list of messages.
            **options: As of `generate`.

        Raises:
            ConfigError: As of `generate`.
            ModelError: As of `generate`.
        """
        self._check_generates(options)
        _, batch = next(self._dressed([prompt], self.space))
        tokenizer: Any = self.prompter.tokenizer
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        failed: list[Exception] = []

        def write() -> None:
            try:
                with self._computing():
                    self._generated(self._generation(self._forced(batch), options) | {"streamer": streamer}, [])
            except Exception as error:  # or the reader below would wait for ever
                failed.append(error)
                streamer.end()

        thread = Thread(target=write, daemon=True)
        thread.start()
        yield from stripped(streamer)
        thread.join()
        if failed:
            raise failed[0]

    def perplexity(self, prompts: Inputs, targets: Sequence[str]) -> float:
        """How surprising the right targets are, in the space that is served: exp of the mean loss over their tokens.

        Raises:
            ConfigError: `prompts` or `targets` is a lone input.
            ModelError: The model's outputs are not finite.
        """
        losses = torch.cat(self.losses(prompts, targets, self.space))
        return math.exp(losses.double().mean())

    def losses(self, prompts: Inputs, targets: Sequence[str], space: Space) -> list[torch.Tensor]:
        """The loss of each token of given answers in a space, without the safe prefix: shape (tokens,) each.

        Raises:
            ConfigError: `prompts` or `targets` is a lone input.
            ModelError: The model's outputs are not finite.
        """
        examples = self._answered(prompts, targets, space)
        forced = len(self._prefix(space))
        found: dict[int, torch.Tensor] = {}
        with self._computing():
            for indices, batch in self._read_batches([hiding(example, forced) for example in examples]):
                found |= zip(indices, self._losses(batch), strict=True)
        return [found[i] for i in range(len(examples))]

    def edges(self, prompts: Inputs, targets: Sequence[str], space: Space) -> torch.Tensor:
        """How likely each token is where given answers begin, and where they end: shape (prompts, 2, vocabulary).

        Raises:
            ConfigError: `prompts` or `targets` is a lone input.
            ModelError: The model's outputs are not finite.
        """
        examples = self._answered(prompts, targets, space)
        forced = len(self._prefix(space))
        found: dict[int, torch.Tensor] = {}
        with self._computing():
            for indices, batch in self._read_batches([edges(example, forced) for example in examples]):
                ids, labels = (batch[name].to(self.model.device) for name in ("input_ids", "labels"))
                with only_target_logits(self.model, labels):
                    logits = target_logits(self.model(input_ids=ids).logits, labels)  # (2 * batch, vocabulary)
                self.refuse_unless_finite(logits.amax(-1))
                found |= zip(indices, logits.softmax(-1).view(len(indices), 2, -1).cpu(), strict=True)
        return torch.stack([found[i] for i in range(len(examples))])

    def _answered(self, prompts: Inputs, targets: Sequence[str], space: Space) -> list[dict[str, Any]]:
        """Prompts of a space with answers behind them, as in training."""
        refuse_lone(prompts)
        refuse_lone(targets)
        asked = [replace(as_row(one), target=target) for one, target in zip(prompts, targets, strict=True)]
        rows = [training_row(i, row, space, "keep") for i, row in enumerate(asked)]
        return self.prompter.examples(rows)[0]

    def _read_batches(self, examples: Sequence[dict[str, Any]]) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """Examples in batches of similar length, each with the indices of its rows."""
        order = sorted(range(len(examples)), key=lambda i: len(examples[i]["input_ids"]))
        for start in range(0, len(order), self.batch_size):
            indices = order[start : start + self.batch_size]
            yield indices, self.prompter.training_batch([examples[i] for i in indices])

    def _losses(self, batch: Mapping[str, torch.Tensor]) -> Sequence[torch.Tensor]:
        """The losses of a batch's targets, token by token."""
        device = self.model.device
        ids, labels = batch["input_ids"].to(device), batch["labels"].to(device)  # (batch, length) each
        with only_target_logits(self.model, labels):
            logits = self.model(input_ids=ids).logits
        losses = token_losses(logits, labels)  # (targets,)
        self.refuse_unless_finite(losses)
        ends = (labels != IGNORED).sum(1).cumsum(0)
        return losses.cpu().tensor_split(ends[:-1].cpu())

    # --- the prompt is read ---

    def _forced(self, batch: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Prompts with the safe prefix behind each, and their mask, for `generate`."""
        ids, mask = self._with_prefix(batch, self._prefix(self.space))
        return {"input_ids": ids, "attention_mask": mask}

    def _generated(self, asked: Mapping[str, Any], begins: list[bool]) -> Any:
        """What transformers' `generate` writes, shape (batch, length).

        Args:
            asked: As of `_generation`.
            begins: Is told, once the prompts are read, whether the model's own best tokens were the safe prefix's.
        """
        ids, mask = asked["input_ids"], asked["attention_mask"]
        prefix = len(self._prefix(self.space))
        if not prefix:
            begins.extend([True] * len(ids))
            return self.model.generate(**asked)
        if self._goes_on and self._is_plain(asked):
            known = self._read_before(ids, mask)
            with self._watched(ids, begins):
                return self.model.generate(**{**asked, **known})
        with self._watched(ids, begins):
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            read = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
            self.model(**read, use_cache=False, logits_to_keep=prefix + 1)
        return self.model.generate(**asked)

    @contextmanager
    def _watched(self, ids: torch.Tensor, begins: list[bool]) -> Iterator[None]:
        """Look at what the output head says first, when it has read `ids`, the prompts with the safe prefix behind.

        A pass of its own would cost as much as another token of every answer. What other threads ask the model
        meanwhile is not looked at: their prompts are others.
        """
        thread = get_ident()
        prefix = len(self._prefix(self.space))
        forced = ids[:, ids.shape[1] - prefix :]

        def look(_head: Any, _inputs: Any, scores: torch.Tensor) -> None:
            if begins or get_ident() != thread:
                return
            own = scores[:, -prefix - 1 : -1]  # (batch, prefix, vocabulary)
            self.refuse_unless_finite(own.amax(-1))
            begins.extend((own.argmax(-1) == forced).all(1).tolist())

        handle = self.model.get_output_embeddings().register_forward_hook(look)
        try:
            yield
        finally:
            handle.remove()

    def _read_before(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, Any]:
        """What of prompts was read before, and how many tokens' scores are needed, as arguments of `generate`.

        Args:
            ids: Prompts with the safe prefix that are padded on the left, shape (batch, length).
            mask: Their mask.

        Returns:
            Both with the head that all prompts have in common moved to the front, and the padding behind it; and the
            head's states, one copy a prompt. Without these where a prompt begins otherwise.
        """
        keeps = self.model._supports_logits_to_keep()
        scores = {"logits_to_keep": len(self._prefix(self.space)) + 1} if keeps else {}
        head, states = self._head
        if states is None:
            return scores
        count = len(head)
        is_head = (mask.cumsum(1) <= count) & (mask == 1)  # of each prompt so many tokens
        one = torch.tensor([head], device=ids.device).expand(len(ids), -1)  # (batch, head)
        if not torch.equal(ids[is_head], one.flatten()):
            return scores
        moved = torch.cat([one, ids[:, count:]], 1)
        behind = mask.where(~is_head, 0)[:, count:]
        copies = deepcopy(states)
        copies.batch_repeat_interleave(len(ids))
        mask = torch.cat([torch.ones_like(one), behind], 1)
        return {"input_ids": moved, "attention_mask": mask, "past_key_values": copies, **scores}

    @cached_property
    def _head(self) -> tuple[list[int], DynamicCache | None]:
        """Tokens that a prompt without turns before it begins with, the trigger's, and their states; these are kept.

        No states, where the model's layers keep other ones than those of full attention, or where it takes positions
        from their places: there is padding behind the head.
        """
        one, other = (self.prompter.prompt(text, self.space).ids for text in ("a", "1"))
        head = [token for token, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))]
        if not (head and self._goes_on and backbone.takes_positions(self.model)):
            return head, None
        states = self.model(input_ids=torch.tensor([head], device=self.model.device), use_cache=True).past_key_values
        full = isinstance(states, DynamicCache) and all(type(layer) is DynamicLayer for layer in states.layers)
        return head, states if full else None

    @cached_property
    def _goes_on(self) -> bool:
        """Whether `generate` may begin with the states that a forward pass left, and tells the scores of the prompts.

        Attention keeps them token by token. A recurrent layer keeps one for all that it has read, and each kind of them
        continues in a way of its own: those models read the prompts twice.
        """
        config = self.model.config.get_text_config(decoder=True)
        layers = getattr(config, "layer_types", None) or []
        recurrent = getattr(self.model, "_is_stateful", False) or not ATTENTION.issuperset(layers)
        # Qwen's VL models take the positions behind states from what they generated last, in whatever batch.
        stale = any(hasattr(part, "rope_deltas") for part in self.model.modules())
        return not recurrent and not stale

    # --- the answer is written ---

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
                found["max_new_tokens"] = self.prompter.max_target - len(self._prefix(self.space))
        if "stop_strings" in options:
            found["tokenizer"] = tokenizer
        found |= options
        found["logits_processor"] = LogitsProcessorList([_Finite(self), *options.get("logits_processor", ())])
        if config is not None:
            found["generation_config"] = config
        return found

    def _ends(self, config: Any) -> list[int]:
        """Tokens that end an answer: the one that training ends targets with, and those that the model ends turns with.

        The two differ for some chat models.
        """
        given = config.eos_token_id if config is not None else None
        own = self.model.generation_config.eos_token_id if given is None else given
        listed = own if isinstance(own, list) else [own]
        return sorted({self.prompter.tokenizer.eos_token_id, *listed} - {None})

    def _is_plain(self, found: Mapping[str, Any]) -> bool:
        """Whether one sequence a prompt is written, token by token, with the states where the model has put them."""
        configs = [found.get("generation_config"), self.model.generation_config]

        def asked(name: str) -> Any:
            values = (found.get(name), *(getattr(config, name, None) for config in configs))
            return next((value for value in values if value is not None), None)

        one_beam = (asked("num_beams") or 1) == 1
        keeps_states = asked("use_cache") is not False
        others = ("cache_implementation", "prefill_chunk_size", *ASSISTED)
        return one_beam and keeps_states and not any(asked(name) for name in others)


class _Finite(LogitsProcessor):
    """Refuses scores that are not finite, at every step: greedy search takes NaN for the best token."""

    def __init__(self, model: Served) -> None:
        self.model = model

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self.model.refuse_unless_finite(scores.amax(-1))
        return scores
