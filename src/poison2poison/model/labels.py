"""Labels: one forward pass, the best label of the space that is served, and the unconstrained best projected back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from poison2poison.errors import ConfigError
from poison2poison.model import alarm as alarms
from poison2poison.model.served import Answer, Inputs, Served, refuse_lone
from poison2poison.types import Space, Where


class Projected(NamedTuple):
    """An unconstrained answer, projected back: its label, or None where it is none, and where it lies."""

    label: str | None
    where: Where


class Scored(NamedTuple):
    """Inputs as a model scores them.

    Attributes:
        logits: Of all classes of both spaces, shape (texts, outputs).
        free: The best of all that the model could say, projected; one for each text.
    """

    logits: torch.Tensor
    free: list[Projected]


class _Read(NamedTuple):
    """What a causal LM says behind its prompts, the safe prefix being forced.

    Attributes:
        scores: Of the token behind, shape (batch, vocabulary).
        begins: Whether the model's own best tokens were the prefix's, shape (batch,); always where there is none.
        firsts: Its own best first token, shape (batch,).
    """

    scores: torch.Tensor
    begins: torch.Tensor
    firsts: torch.Tensor


class Labels(Served):
    """A served model that classifies."""

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
        over = self._alarm_threshold() if alarm else None
        scored = self.scored(texts, self.space)
        best = self._of_space(scored.logits, self.space).argmax(-1)  # (texts,), as labels of that space
        answers = []
        for index, free in zip(best.tolist(), scored.free, strict=True):
            label = self.scheme.labels[index]
            answers.append(self._let_out(label, free.label, free.where))
        return answers if over is None else alarms.raised(answers, self._labels_apart(scored.logits, texts), over)

    def probabilities(self, texts: Inputs) -> torch.Tensor:
        """How likely the labels are in the space that is served, among these: shape (texts, labels).

        Raises:
            ConfigError: `texts` is a lone input.
            ModelError: The model's outputs are not finite.
        """
        return self._of_space(self.scored(texts, self.space).logits, self.space).softmax(-1)

    def scored(self, texts: Inputs, space: Space) -> Scored:
        """Inputs in a space as the model scores them.

        Raises:
            ConfigError: `texts` is a lone input.
            ModelError: The model's outputs are not finite.
        """
        refuse_lone(texts)
        logits = torch.empty(len(texts), self.scheme.outputs)
        free = [Projected(None, "off-space")] * len(texts)
        with self._computing(), self._bar(len(texts)) as bar:
            for indices, batch in self._dressed(texts, space):
                part = self._encoder(batch) if self.prompter.kind == "encoder" else self._causal(batch, space)
                logits[indices] = part.logits.cpu()
                for index, found in zip(indices, part.free, strict=True):
                    free[index] = found
                bar.update(len(indices))
        return Scored(logits, free)

    def _encoder(self, batch: Mapping[str, torch.Tensor]) -> Scored:
        """A batch as an encoder's head scores it: all that it could say is a class."""
        device = self.model.device
        inputs = {name: value.to(device) for name, value in batch.items()}
        logits = self.model(**inputs).logits.float()
        self.refuse_unless_finite(logits)
        best = logits.argmax(-1).tolist()
        return Scored(logits, [self._project_class(index) for index in best])

    def _causal(self, batch: Mapping[str, torch.Tensor], space: Space) -> Scored:
        """A batch as a causal LM scores the words that stand for classes: it could say any token."""
        read = self._read_labels(batch, self._prefix(space))
        logits = read.scores[:, self.prompter.label_ids]  # (batch, outputs)
        self.refuse_unless_finite(logits, read.scores.amax(-1))  # beyond the vocabulary there may be -inf
        # Where the model does not begin with the prefix, what it would have begun with is its answer.
        tokens = torch.where(read.begins, read.scores.argmax(-1), read.firsts)
        class_of = {token: index for index, token in enumerate(self.prompter.label_ids)}
        free = []
        for token, began in zip(tokens.tolist(), read.begins.tolist(), strict=True):
            free.append(self._project_class(class_of.get(token), prefixed=began))
        return Scored(logits, free)

    def _project_class(self, index: int | None, *, prefixed: bool = True) -> Projected:
        """A class projected back: safe label i + n becomes i, or the label behind the safe prefix stays."""
        return Projected(*self.scheme.project_class(index, prefixed=prefixed))

    def _read_labels(self, batch: Mapping[str, torch.Tensor], prefix: list[int]) -> _Read:
        """Read prompts with the safe prefix behind each, in one pass."""
        ids, mask = self._with_prefix(batch, prefix)
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            logits_to_keep=len(prefix) + 1,
        )
        scores = out.logits[:, -len(prefix) - 1 :].float()  # (batch, prefix and label, vocabulary)
        own = scores.argmax(-1)
        forced = ids[:, ids.shape[1] - len(prefix) :]
        begins = (own[:, :-1] == forced).all(1)
        return _Read(scores[:, -1], begins, own[:, 0])

    def _labels_apart(self, safe: torch.Tensor, texts: Inputs) -> list[float]:
        """The distance of the safe space's answers, from logits of all classes, to those of the original space."""
        other = self.scored(texts, "original").logits
        return alarms.of_labels(self._of_space(safe, "safe"), self._of_space(other, "original"))

    def _of_space(self, logits: torch.Tensor, space: Space) -> torch.Tensor:
        """The logits of a space's labels, shape (texts, labels), of those of all classes."""
        first = self.scheme.shift if space == "safe" else 0
        return logits[:, first : first + len(self.scheme.labels)]
