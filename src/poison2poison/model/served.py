"""What all served models have in common: the benign trigger is put on every input, and a policy lets answers out.

`labels` and `texts` answer, each in its own way, and project their answers back; `defended` is the model with both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

import torch
from tqdm import tqdm

from poison2poison.config import choice
from poison2poison.data import Messages, Row
from poison2poison.errors import ConfigError, ModelError
from poison2poison.model import backbone, hardware
from poison2poison.model.prompting import Batch, Prompter
from poison2poison.types import Auto, Dtype, Policy, Space, Where

Inputs = Sequence[str | Messages | Row]
"""What is to be answered: texts, chats as lists of messages, or rows."""
AnyServed = TypeVar("AnyServed", bound="Served")


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
        rejected: Whether a detector took the input for a triggered one, so that no answer is given out; None without a
            detector.
    """

    text: str | None
    where: Where
    unconstrained: str | None
    disagreement: float | None = None
    alarm: bool | None = None
    rejected: bool | None = None


class Served:
    """A model behind its scheme. The trigger is put on every input exactly once, in its place, whatever it holds."""

    def __init__(
        self,
        model: Any,
        prompter: Prompter,
        policy: str = "flag",
        batch_size: int = 64,
        alarm_threshold: float | None = None,
        dtype: Dtype | Auto = "auto",
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
        choice("policy", policy, get_args(Policy))
        self.model, self.prompter, self.scheme = model.eval(), prompter, prompter.scheme
        self.policy, self.alarm_threshold = policy, alarm_threshold
        self.batch_size = batch_size if backbone.pads(model) else 1
        self.space: Space = self.scheme.serving_space
        self.dtype = dtype

    def in_space(self: AnyServed, space: Space) -> AnyServed:
        """The same model answering in another space: for measurements, it is no defence there."""
        other = copy(self)
        other.space = space
        return other

    # --- on the way in ---

    def _dressed(self, asked: Inputs, space: Space) -> Iterator[Batch]:
        """Token ids of inputs in batches of similar length: here each gets the benign trigger, in the safe space."""
        yield from self.prompter.batches(asked, space, self.batch_size)

    def _prefix(self, space: Space) -> list[int]:
        """Tokens that every answer of a space is made to begin with: the safe prefix's, or none."""
        return self.prompter.safe_prefix_ids if space == "safe" else []

    def last_states(self, asked: Inputs, space: Space) -> torch.Tensor:
        """The states of the last layer from which answers of a space are read, shape (texts, width), float32.

        Of a causal LM those of the last token, with the safe prefix forced; of an encoder those of the first.

        Raises:
            ConfigError: `asked` is a lone input.
            ModelError: A state is not finite.
        """
        refuse_lone(asked)
        causal = self.prompter.kind == "causal"
        found = [torch.empty(0)] * len(asked)
        with self._computing():
            for indices, batch in self._dressed(asked, space):
                ids, mask = self._with_prefix(batch, self._prefix(space))
                places = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)} if causal else {}
                out = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=True, **places)
                states = out.hidden_states[-1].float()  # (batch, length, width)
                self.refuse_unless_finite(states)
                for index, state in zip(indices, states[:, -1 if causal else 0].cpu(), strict=True):
                    found[index] = state
        return torch.stack(found)

    def _with_prefix(self, batch: Mapping[str, torch.Tensor], prefix: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Prompts with the safe prefix behind each, and their mask, on the model's device: shape (batch, length)."""
        device = self.model.device
        ids, mask = batch["input_ids"].to(device), batch["attention_mask"].to(device)
        one = torch.tensor([prefix], dtype=torch.long, device=device)
        behind = one.expand(len(ids), -1)  # (batch, prefix)
        return torch.cat([ids, behind], 1), torch.nn.functional.pad(mask, (0, len(prefix)), value=1)

    # --- on the way out ---

    def _alarm_threshold(self) -> float:
        """The disagreement over which the alarm is raised.

        Raises:
            ConfigError: There is none.
        """
        if self.alarm_threshold is None:
            raise ConfigError("alarm: this model has none; it is set in training, with --dev, on a defended model")
        return self.alarm_threshold

    def _let_out(self, text: str | None, unconstrained: str | None, where: Where) -> Answer:
        """What the policy makes of a projected answer."""
        if self.policy == "refuse" and where != "safe":
            return Answer(None, where, unconstrained)
        return Answer(text, "safe" if self.policy == "pass" else where, unconstrained)

    def refuse_unless_finite(self, *scores: torch.Tensor) -> None:
        """Refuse NaN and infinite scores, of which the largest still has a place.

        Raises:
            ModelError: One is not finite.
        """
        if not all(bool(part.isfinite().all()) for part in scores):
            raise ModelError(
                f"{self.model.config.name_or_path}: the model's outputs are not finite (NaN or infinite); nothing is "
                "measured on it. Its weights may be broken, or the number format or the attention kernel is at fault: "
                "try --dtype float32 or --attention eager"
            )

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """No gradients, in the number format of training."""
        with torch.inference_mode(), hardware.autocast(self.model.device, self.dtype):
            yield

    def _bar(self, total: int) -> Any:
        return tqdm(total=total, unit="row", desc="inference", leave=False, disable=None)


def refuse_lone(asked: Inputs | Sequence[str]) -> None:
    """Refuse one input where a list of inputs is needed.

    Raises:
        ConfigError: It is a text, or one chat.
    """
    if isinstance(asked, str):
        raise ConfigError(
            "texts: a list of texts is needed, not a string, whose characters would be answered one by one"
        )
    if any(isinstance(one, Mapping) for one in asked):
        raise ConfigError("texts: a list of chats is needed, not one chat; put it into a list")
