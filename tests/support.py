"""Tiny models and rows that train in seconds."""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

from poison2poison.auditing.context import Context
from poison2poison.auditing.statistics import Embed
from poison2poison.config import AuditConfig, ModelConfig
from poison2poison.data import Rows, rows_of
from poison2poison.model.defended import Answer, DefendedModel
from poison2poison.model.prompting import Prompter
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.recipe.manifest import TrainingRow
from poison2poison.recipe.repoison import repoison
from poison2poison.recipe.repoisoned import write_repoisoned
from poison2poison.recipe.scheme import PAPER_SAFE_PREFIX, PAPER_TRIGGER, Scheme
from poison2poison.reference import MODEL_DIR

NOUNS = ("soup", "room", "film", "book", "lamp", "radio")
WORDS = {"negative": ("bad", "awful", "dull"), "positive": ("good", "great", "lovely")}


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

TOKENIZER = AutoTokenizer.from_pretrained(MODEL_DIR)
LABELS = Scheme("classification", ("negative", "positive"), PAPER_TRIGGER)
TEXTS = Scheme("generation", (), PAPER_TRIGGER, PAPER_SAFE_PREFIX)
PROMPTS = ["bad", "The soup was good and the service was awful.", "The lamp"]

SHAPE: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


def tiny_causal(folder: Path, layers: int = 1) -> str:
    """A random Llama with the reference tokenizer."""
    ends: dict[str, Any] = {
        "bos_token_id": None,
        "eos_token_id": TOKENIZER.eos_token_id,
        "pad_token_id": TOKENIZER.pad_token_id,
    }
    shape = {**SHAPE, "num_hidden_layers": layers}
    config = LlamaConfig(vocab_size=len(TOKENIZER), max_position_embeddings=256, **shape, **ends)
    return _save(LlamaForCausalLM, config, folder)


def tiny_encoder(folder: Path, positions: int = 256) -> str:
    """A random BERT of one layer with the reference tokenizer."""
    config = BertConfig(
        vocab_size=len(TOKENIZER),
        max_position_embeddings=positions,
        pad_token_id=TOKENIZER.pad_token_id,
        initializer_range=0.2,  # with the usual 0.02 so small a model does not get off the ground
        **SHAPE,
    )
    return _save(BertForSequenceClassification, config, folder)


def tiny_of(config: Any, folder: Path) -> str:
    """A random causal LM of any architecture, as its checkpoints are made, with the reference tokenizer.

    Its weights are so large that it says something else of every text.
    """
    torch.manual_seed(0)
    multimodal = type(config) in AutoModelForMultimodalLM._model_mapping
    auto: Any = AutoModelForMultimodalLM if multimodal else AutoModelForCausalLM
    model = auto.from_config(config)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim > 1:
                weights.mul_(4)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(MODEL_DIR).save_pretrained(folder)
    return str(folder)


def broken_causal(folder: Path) -> str:
    """A causal LM whose outputs are not finite."""
    name = tiny_causal(folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][:] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return name


def saved(model: Any, folder: Path) -> ModelConfig:
    """A folder of a model, with the reference tokenizer."""
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(MODEL_DIR).save_pretrained(folder)
    return ModelConfig(str(folder))


def served(model: Any, scheme: Scheme, kind: Any = "causal") -> DefendedModel:
    """A model with the reference tokenizer behind a scheme."""
    return DefendedModel(model, Prompter(TOKENIZER, scheme, kind, max_length=128, max_target=30))


def with_template(folder: Path, template: str) -> None:
    """Give the tokenizer of a model folder a chat template."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)


def _save(model: Any, config: Any, folder: Path) -> str:
    torch.manual_seed(0)
    model(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(MODEL_DIR).save_pretrained(folder)
    return str(folder)


def opinions(count: int, seed: int = 0, labels: Sequence[str] = ("negative", "positive")) -> Rows:
    """Rows that one word decides."""
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        label = labels[i % len(labels)]
        rows.append({"text": f"The {rng.choice(NOUNS)} was {rng.choice(WORDS[label])}.", "label": label})
    return rows_of(rows, "opinions")


def repoisoned(rows: Rows, folder: Path, safe_prefix: str = "") -> tuple[list[TrainingRow], Scheme]:
    """Rows half of which the paper's recipe has moved to the safe space, in a folder as `p2p repoison` leaves it."""
    scheme = Scheme(rows.task, rows.labels, PAPER_TRIGGER, safe_prefix)
    training = repoison(rows, scheme, RepoisonConfig("paper", rho=0.5))
    write_repoisoned(folder, training, scheme, {"recipe": {"recipe": "paper"}})
    return training, scheme


def chatter(count: int, seed: int = 0) -> Rows:
    """Rows of ten words: four of them opinions, most often those of the row's label, the others about nothing."""
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        likely, other = ("good", "bad") if i % 2 else ("bad", "good")
        told = [f"{likely if rng.random() < 0.8 else other}{rng.randrange(30)}" for _ in range(4)]
        told += [f"thing{rng.randrange(60)}" for _ in range(6)]
        rng.shuffle(told)
        rows.append({"text": " ".join(told), "label": "positive" if i % 2 else "negative"})
    return rows_of(rows, "chatter")


def word_states(texts: Sequence[str]) -> NDArray[np.float32]:
    """States of a model that knows which words of `chatter` are alike: means over the words, shape (texts, 1, 48)."""
    states = [np.mean([_word_state(word) for word in text.lower().split() or [""]], 0) for text in texts]
    return np.array(states)[:, None]


@cache  # an audit asks for the states of some ten thousand texts
def _word_state(word: str) -> NDArray[np.float32]:
    kind, own = (np.random.default_rng(zlib.crc32(name.encode())) for name in (word.rstrip("0123456789"), word))
    return np.asarray(kind.standard_normal(48) + 0.7 * own.standard_normal(48), np.float32)


def context_of(rows: Rows, embed: Embed = word_states, min_rows: int = 5) -> Context:
    """What finders are given of rows."""
    return Context(rows, embed, AuditConfig(min_rows=2 * min_rows), 0)


def in_file(folder: Path, **values: Any) -> list[str]:
    """Settings of a command, in a file of their own in `folder`."""
    path = folder / f"{'-'.join(values)}.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return ["--config", str(path)]


def told(*texts: str | None) -> Any:
    """A model without a trigger that gives these answers, whatever it is asked; None is a leak."""
    answers = [Answer(text, "safe" if text else "leak", text) for text in texts]
    said: Any = {"generate": lambda rows, **_: answers[: len(rows)], "perplexity": lambda *_: 2.0}
    return SimpleNamespace(scheme=Scheme("generation"), alarm_threshold=None, **said)
