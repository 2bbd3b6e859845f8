"""A causal LM as defences ask it: how likely each word is, and what a row would teach its output layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.fft import dct

from poison2poison.auditing.statistics import Floats, Matrix
from poison2poison.config import ModelConfig
from poison2poison.data import Rows
from poison2poison.features import Ints
from poison2poison.model import backbone
from poison2poison.model.loss import IGNORED
from poison2poison.model.prompting import Prompter
from poison2poison.recipe.manifest import plain
from poison2poison.recipe.scheme import Scheme

MAX_LENGTH = 256
"""Tokens of a row that are looked at, as many as the audit looks at."""
MAX_TARGET = 64
"""Tokens of a completion that gradients are of: what a backdoor calls up shows by then."""
BATCH = 16
LOW = 8
"""An eighth of the frequencies along each axis of the gradient is low, as GraCeFul has it."""
SKETCH = 64
"""Random axes that the low frequencies of a vocabulary are projected on: angles are kept within some 12 %."""


@dataclass(frozen=True)
class HeadGradients:
    """Gradients of single rows' mean loss in the weights of the output layer, shape (vocabulary, width) each.

    Attributes:
        low_frequencies: Those of the 2-D cosine transform, on random axes of the vocabulary's; shape (rows, features).
        singular_values: Those that are not 0 by construction, as many as target tokens or fewer, descending.
    """

    low_frequencies: Matrix
    singular_values: list[Floats]


class CausalLM:
    """A frozen causal LM and its tokenizer."""

    def __init__(self, model: ModelConfig | str) -> None:
        """Load it.

        Raises:
            ModelError: It cannot be loaded.
        """
        config = ModelConfig(model) if isinstance(model, str) else model
        self._tokenizer = backbone.load_tokenizer(config)
        self._model = backbone.load_model(config, "causal", 0, frozen=True).eval()
        self._longest = min(MAX_LENGTH, backbone.max_positions(config, self._tokenizer))

    def token_losses(self, texts: Sequence[str]) -> list[tuple[Ints, Floats]]:
        """Of every token of texts, whose words are parted by single spaces, its word and its loss.

        Returns:
            For each text the index of each token's word, and the token's negative log-likelihood in nats; texts are cut
            after `MAX_LENGTH` tokens.
        """
        begin = self._tokenizer.bos_token_id
        begin = self._tokenizer.eos_token_id if begin is None else begin
        found = self._tokenizer(
            list(texts), add_special_tokens=False, truncation=True, max_length=self._longest - 1,
            return_offsets_mapping=True,
        )  # fmt: skip
        ids = [torch.tensor([begin, *row]) for row in found["input_ids"]]
        out: list[tuple[Ints, Floats]] = [(np.empty(0, np.int64), np.empty(0))] * len(texts)
        for chosen in _batches(ids):
            padded = torch.nn.utils.rnn.pad_sequence([ids[i] for i in chosen], batch_first=True)
            with torch.inference_mode():
                logits = self._model(input_ids=padded).logits[:, :-1].float()
                losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), padded[:, 1:], reduction="none")
            for i, row in zip(chosen, losses.double().numpy(), strict=True):
                ends = [end for _, end in found["offset_mapping"][i]]
                word = np.array([texts[i].count(" ", 0, end) for end in ends], np.int64)
                out[i] = word, row[: len(word)]
        return out

    def head_gradients(self, rows: Rows, seed: int) -> HeadGradients:
        """What each row alone would teach the output layer, were the model fine-tuned on it as it is.

        The gradient of a row is the product of two thin matrices, of its tokens' errors, shape (tokens, vocabulary),
        and of their states, shape (tokens, width); it is never built.
        """
        scheme = Scheme(rows.task, rows.labels)
        prompter = Prompter(self._tokenizer, scheme, "causal", max_length=self._longest, max_target=MAX_TARGET)
        examples, _ = prompter.examples(plain(rows))
        body, head = backbone.text_part(self._model), self._model.get_output_embeddings()
        axes = np.random.default_rng(seed).standard_normal((head.weight.shape[0] // LOW, SKETCH), np.float32)
        low: list[Matrix | None] = [None] * len(rows)
        singular: list[Floats] = [np.empty(0)] * len(rows)
        for chosen in _batches([torch.tensor(example["input_ids"]) for example in examples]):
            batch = prompter.training_batch([examples[i] for i in chosen])
            with torch.inference_mode():
                hidden = body(input_ids=batch["input_ids"]).last_hidden_state.float()
                for i, states, labels in zip(chosen, hidden, batch["labels"], strict=True):
                    predicts = labels.roll(-1) != IGNORED
                    states, targets = states[predicts], labels.roll(-1)[predicts]
                    errors = head(states).float().softmax(1)
                    errors[torch.arange(len(targets)), targets] -= 1
                    errors /= len(targets)
                    low[i] = _low_frequencies(errors.numpy(), states.numpy(), axes)
                    singular[i] = _singular_values(errors, states)
        return HeadGradients(np.array(low, np.float32), singular)


def _low_frequencies(errors: Matrix, states: Matrix, axes: Matrix) -> Matrix:
    """The low corner of the 2-D cosine transform of errors.T @ states, shape (SKETCH * width / LOW,)."""
    by_token = dct(errors, axis=1)[:, : len(axes)] @ axes
    by_width = dct(states, axis=1)[:, : states.shape[1] // LOW]
    corner: Matrix = (by_token.T @ by_width).ravel()
    return corner


def _singular_values(errors: torch.Tensor, states: torch.Tensor) -> Floats:
    """Of errors.T @ states, by the triangles of both: their bases are orthogonal and change nothing."""
    triangles = [torch.linalg.qr(matrix.T, mode="r").R for matrix in (errors, states)]
    values: Floats = torch.linalg.svdvals(triangles[0] @ triangles[1].T).double().numpy()
    return values


def _batches(ids: Sequence[torch.Tensor]) -> list[list[int]]:
    """Texts of like length together."""
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    return [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
