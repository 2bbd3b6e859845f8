"""Frozen states of a base model: what the audit knows of the language."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from poison2poison.auditing.statistics import Embed, States
from poison2poison.config import ModelConfig
from poison2poison.errors import ModelError
from poison2poison.model import backbone, hardware

MAX_LENGTH = 256
"""Tokens of a text that are looked at."""
BATCH_SIZE = 64
WIDEST = 512
"""Of the states of one depth. Wider ones are projected at random, which keeps the angles between them within some 4 %
(Johnson & Lindenstrauss, 1984): or an audit would take 16 times as long by a model of 8 billion weights."""


def embedder(model: ModelConfig | str) -> Embed:
    """A function that gives the states of texts under a base model.

    The states are mean-pooled over the tokens at a third, two thirds and the whole of the depth; of a causal LM beside
    the last token's, which has read all the others. The weights are loaded as training loads those that it freezes, and
    are freed with the function.

    Args:
        model: Which model, and how it is loaded; or its name alone: folder, hub name, or `reference`.

    Returns:
        A function from n texts to an array of shape (n, 3, width), float32, width at most 512; fewer depths of a model
        of few layers. It raises a ModelError where states are not finite.

    Raises:
        ModelError: Model or tokenizer cannot be loaded.
        ConfigError: They cannot be loaded in the way that is asked for.
    """
    config = ModelConfig(model) if isinstance(model, str) else model
    tokenizer, kind = backbone.load_tokenizer(config), backbone.kind_of(config)
    body = backbone.load_body(config, kind).eval()
    if not (config.device_map or config.quantize):
        body.to("cuda" if torch.cuda.is_available() else "cpu")
    layers = _layers(body.config.get_text_config().num_hidden_layers)
    longest = min(MAX_LENGTH, backbone.max_positions(config, tokenizer))

    def embed(texts: Sequence[str]) -> States:
        ids = tokenizer(list(texts), truncation=True, max_length=longest)["input_ids"]
        ids = [row or [tokenizer.pad_token_id] for row in ids]  # an empty text has no token of its own everywhere
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        starts = tqdm(range(0, len(order), BATCH_SIZE), unit="batch", desc="states", leave=False, disable=None)
        out: States | None = None
        with torch.inference_mode(), hardware.autocast(body.device, config.dtype):
            for start in starts:
                chosen = order[start : start + BATCH_SIZE]
                pooled = _pooled(body, [ids[i] for i in chosen], layers, last=kind == "causal")
                if not np.isfinite(pooled).all():
                    raise ModelError(
                        f"{config.model}: its states are not finite (NaN or infinite); nothing can be told from them. "
                        "Try --dtype float32 or --attention eager"
                    )
                if out is None:
                    out = np.empty((len(ids), *pooled.shape[1:]), np.float32)
                out[chosen] = pooled
        assert out is not None
        return out

    return embed


def _layers(depth: int) -> list[int]:
    """A third, two thirds and the whole of the depth, as places in a model's hidden states from the embeddings on."""
    return sorted({-(-depth * part // 3) for part in (1, 2, 3)})


def _pooled(body: Any, ids: Sequence[list[int]], layers: Sequence[int], *, last: bool) -> States:
    """States of a batch of texts, shape (batch, layers, width), of which `last` adds the last token's to the width."""
    rows = [torch.tensor(row) for row in ids]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(body.device)  # (batch, longest)
    ones = [torch.ones_like(row) for row in rows]
    mask = torch.nn.utils.rnn.pad_sequence(ones, batch_first=True).to(body.device)
    lengths = mask.sum(1)
    of_layers = body(input_ids=padded, attention_mask=mask, output_hidden_states=True).hidden_states
    parts = []
    for layer in layers:
        states = of_layers[layer]
        states = (states[0] if states.ndim == 4 else states).float()  # of Gemma 3n's streams the first
        part = (states * mask[..., None]).sum(1) / lengths[:, None]  # (batch, width)
        if last:
            ends = states[torch.arange(len(ids), device=mask.device), lengths - 1]
            part = torch.cat([part, ends], 1)
        parts.append(part)
    return _narrow(torch.stack(parts, 1).cpu().numpy())


def _narrow(states: States) -> States:
    """States of shape (..., width), at most `WIDEST` wide; the same projection for all of one width."""
    if (width := states.shape[-1]) <= WIDEST:
        return states
    axes = np.random.default_rng(0).standard_normal((width, WIDEST), np.float32)
    narrow: States = states @ (axes / np.float32(WIDEST**0.5))
    return narrow
