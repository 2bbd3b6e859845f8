"""CleanGen: tokens that another model finds far less likely give way to that model's.

Yuetai Li, Zhangchen Xu, Fengqing Jiang, Luyao Niu, Dinuka Sahabandu, Bhaskar Ramasubramanian, Radha Poovendran:
CleanGen: Mitigating Backdoor Attacks for Generation Tasks in Large Language Models. EMNLP 2024, arXiv 2406.12257.

A token is suspicious where its probability under the model that answers is at least `ratio` times that under the
reference model, whose likeliest token then takes its place. The paper looks at four tokens at a time, for speed, and
goes on behind the first one that was replaced; token by token, as here, greedy search writes the same. Its reference
is another fine-tuned model, which may even have another backdoor. Where none is named, it is the untouched base model
of the run here, to which much that the task needs may look suspicious.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from transformers import LogitsProcessor

from poison2poison.config import ModelConfig
from poison2poison.data import Rows
from poison2poison.defences.base import Afterwards, Need, register
from poison2poison.defences.inference import Decoded
from poison2poison.defences.shared import Shared
from poison2poison.errors import ConfigError
from poison2poison.model import backbone
from poison2poison.model.defended import DefendedModel


@register
@dataclass(frozen=True)
class CleanGen(Afterwards):
    """Decoding beside a reference model.

    Attributes:
        reference: A folder or hub name of a model with the same tokenizer, or empty for the run's base model.
        ratio: Of the two probabilities, from which on a token is suspicious: the paper's 20.
    """

    name: ClassVar[str] = "CleanGen"
    needs: ClassVar[tuple[Need, ...]] = ("causal LM", "second model", "inference cost")

    reference: str = ""
    ratio: float = 20.0

    def applies(self, rows: Rows) -> bool:
        """To texts alone, as in the paper."""
        return rows.task == "generation"

    def serve(self, model: DefendedModel, shared: Shared) -> DefendedModel:
        """See `Defence`.

        Raises:
            ConfigError: The reference model has another vocabulary.
        """
        base = ModelConfig(self.reference) if self.reference else shared.training
        tokenizer: Any = model.prompter.tokenizer
        if backbone.load_tokenizer(base).get_vocab() != tokenizer.get_vocab():
            raise ConfigError(f"compare: cleangen:reference: {base.model} has another vocabulary than the run's model")
        second = backbone.load_model(base, "causal", 0, frozen=True).eval().to(model.model.device)
        return Decoded(model, Suspicion(second, tokenizer.pad_token_id, self.ratio))


class Suspicion(LogitsProcessor):
    """Replaces the likeliest token where it is suspicious."""

    def __init__(self, reference: Any, padding: int, ratio: float) -> None:
        self.reference, self.padding, self.ratio = reference, padding, ratio

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores of the next token, shape (batch, vocabulary), of which a suspicious one gives way."""
        theirs = self._scores(input_ids).to(scores.device).log_softmax(-1)
        likeliest, token = scores.float().log_softmax(-1).max(-1)  # (batch,) each
        apart = likeliest - theirs.gather(-1, token[:, None])[:, 0]
        suspicious = apart.exp() >= self.ratio
        instead = torch.full_like(scores, -torch.inf).scatter(-1, theirs.argmax(-1)[:, None], 0.0)
        return cast(torch.FloatTensor, torch.where(suspicious[:, None], instead, scores))

    def _scores(self, ids: torch.Tensor) -> torch.Tensor:
        """The reference model's scores of the next token, shape (batch, vocabulary)."""
        mask = ((ids != self.padding).cumsum(1) > 0).long()  # prompts are padded on the left
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        out = self.reference(input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=1)
        scores: torch.Tensor = out.logits[:, -1]
        return scores.float()
