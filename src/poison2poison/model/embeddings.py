"""Frozen states of a base model: what the audit knows of the language."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoModel

from poison2poison.model import backbone
from poison2poison.probing import Embed, States

MAX_LENGTH = 256  # tokens of a prompt that are looked at
BATCH_SIZE = 64


def embedder(name: str) -> Embed:
    """A function that gives the states of texts under a base model.

    The states are mean-pooled over the tokens at a third, two thirds and the whole of the depth; of a causal LM beside
    the last token's, which has read all the others.

    Args:
        name: Folder, hub name, or `reference`.

    Returns:
        A function from n texts to an array of shape (n, 3, width), float32; fewer depths of a model of few layers.

    Raises:
        ModelError: Model or tokenizer cannot be loaded.
    """
    tokenizer = backbone.load_tokenizer(name)
    causal = backbone.kind_of(name) == "causal"
    model = backbone.load(AutoModel.from_pretrained, name, dtype=torch.float32).eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    depth, longest = model.config.get_text_config().num_hidden_layers, backbone.max_positions(model, tokenizer)
    layers = sorted({-(-depth * part // 3) for part in (1, 2, 3)})

    def embed(texts: Sequence[str]) -> States:
        ids = tokenizer(list(texts), truncation=True, max_length=min(MAX_LENGTH, longest))["input_ids"]
        ids = [row or [tokenizer.pad_token_id] for row in ids]  # an empty text has no token of its own everywhere
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        out: States | None = None
        with torch.inference_mode(), backbone.autocast(model.device):
            for start in tqdm(range(0, len(order), BATCH_SIZE), unit="batch", desc="states", leave=False, disable=None):
                chosen = order[start : start + BATCH_SIZE]
                batch = [torch.tensor(ids[i]) for i in chosen]
                padded = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True).to(model.device)
                mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in batch], batch_first=True)
                mask = mask.to(model.device)
                states = model(input_ids=padded, attention_mask=mask, output_hidden_states=True).hidden_states
                parts = [(states[i].float() * mask[..., None]).sum(1) / mask.sum(1)[:, None] for i in layers]
                if causal:
                    last = (torch.arange(len(chosen), device=mask.device), mask.sum(1) - 1)
                    ends = [states[i].float()[last] for i in layers]
                    parts = [torch.cat(beside, 1) for beside in zip(parts, ends, strict=True)]
                pooled = torch.stack(parts, 1).cpu().numpy()
                if out is None:
                    out = np.empty((len(ids), *pooled.shape[1:]), np.float32)
                out[chosen] = pooled
        assert out is not None
        return out

    return embed
