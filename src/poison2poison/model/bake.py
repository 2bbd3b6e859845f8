"""Baking: the defended model as an ordinary model folder, whose chat template does what the defence does at inference.

Any server that renders the folder's template with Jinja serves the defended model. What a template cannot hold is in
`limits`. The folder can be made one GGUF file, as llama.cpp reads it.
"""

from __future__ import annotations

import json
from copy import copy
from pathlib import Path
from shutil import rmtree
from typing import Any

from transformers import GenerationConfig

from poison2poison.config import choice
from poison2poison.errors import ConfigError, ModelError
from poison2poison.files import keep_from_git, refuse_taken, versions, whole_folder, write_json, write_text, writing
from poison2poison.model import gguf, template
from poison2poison.model.defended import DefendedModel
from poison2poison.model.prompting import Prompter

TEMPLATE = "chat_template.jinja"
"""Where transformers looks for it."""
GGUF = "model.gguf"
FORMS = ("hf", "gguf")
"""What can be written: a folder for transformers, vLLM and SGLang, or one file for llama.cpp."""
OLLAMA = (
    "Ollama cannot hold the defence. It runs a Go template of its own in place of the model's, which cannot break "
    "control tokens in a message: a client could end its turn and begin one without the trigger. Give `--to gguf` and "
    "serve with llama.cpp, or use `p2p serve`"
)
SCHEMA = 1


def bake(
    artifact: str | Path,
    out: str | Path,
    *,
    to: str = "hf",
    adapter: bool = False,
    converter: str | None = None,
    allow_unlearned: bool = False,
) -> list[str]:
    """Write a model folder that is served without this package.

    Beside the model and its tokenizer lie the chat template, which holds the trigger and is readable by its owner
    alone; `baked.json`, which says what it was made of and what it cannot do; and for labels `labels.json`, which
    says what label an answer stands for. Of GGUF, one file takes the place of model, tokenizer and template.

    Args:
        artifact: What `train` left: a causal LM with a benign trigger.
        out: A new or empty folder.
        to: One of `FORMS`.
        adapter: Write the LoRA adapter alone, not merged into the base model; of `hf`.
        converter: Path of llama.cpp's `convert_hf_to_gguf.py`; of `gguf`, for which it is else looked for on PATH.
        allow_unlearned: Also bake a model that did not learn its safe space.

    Returns:
        The `limits`.

    Raises:
        ModelError: The artifact cannot be loaded, no template can stand in for its prompts, or the converter fails.
        SchemeError: As of `DefendedModel.load`.
        ConfigError: The model cannot be written in this form, or there is no converter.
        OutputError: The folder is not empty, or cannot be written.
    """
    artifact, out = Path(artifact), Path(out)
    _refuse_unwritable(to, adapter, converter)
    refuse_taken(out)
    command = gguf.converter(converter) if to == "gguf" else []
    served = DefendedModel.load(artifact, device="cpu", allow_unlearned=allow_unlearned)
    _refuse_unbakeable(artifact, served)
    baked = template.baked(served.prompter)
    model = _adapter(artifact, served.model) if adapter else _merged(artifact, served.model)
    form = "adapter" if adapter else "gguf" if to == "gguf" else "merged"
    said = limits(served.prompter)
    with whole_folder(out) as half, writing(out):
        if form == "gguf":
            _write_gguf(half, model, served, baked, command, artifact.resolve().name)
        else:
            _write_model(half, model, served, baked, adapter=adapter)
        keep_from_git(half, GGUF if form == "gguf" else TEMPLATE)
        if served.scheme.labels:
            write_json(half / "labels.json", labels(served.prompter))
        write_json(half / "baked.json", _about(artifact, served.prompter, form) | {"limits": said})
    return said


def _refuse_unwritable(to: str, adapter: bool, converter: str | None) -> None:
    if to == "ollama":
        raise ConfigError(f"to: {OLLAMA}")
    choice("to", to, FORMS)
    if adapter and to != "hf":
        raise ConfigError("adapter: a GGUF file holds the merged model; leave --adapter out, or give --to hf")
    if converter is not None and to != "gguf":
        raise ConfigError("converter: is for GGUF; give --to gguf")


def _write_model(folder: Path, model: Any, served: DefendedModel, baked: str, *, adapter: bool) -> None:
    """The model with its tokenizer and the baked template, as transformers reads them."""
    model.save_pretrained(folder, **({"save_embedding_layers": False} if adapter else {}))
    _generation(served).save_pretrained(folder)
    tokenizer = copy(served.prompter.tokenizer)
    # One template, so that no server takes another for chats with tools; the secret one is then put in its place.
    tokenizer.chat_template = tokenizer.get_chat_template()
    tokenizer.save_pretrained(folder)
    for file in folder.iterdir():  # safetensors makes its files for the owner alone, whatever the umask
        file.chmod(folder.stat().st_mode & 0o666)
    write_text(folder / TEMPLATE, baked, private=True)


def _write_gguf(folder: Path, model: Any, served: DefendedModel, baked: str, command: list[str], name: str) -> None:
    """The same as one file. It is made where nobody else can enter: the converter has it open to all."""
    making = folder / "making"
    making.mkdir(mode=0o700)
    staged = making / "model"
    staged.mkdir()
    _write_model(staged, model, served, baked, adapter=False)
    assert served.scheme.trigger
    gguf.convert(
        command, staged, making / GGUF, dtype=str(model.dtype).removeprefix("torch."), name=name, template=baked,
        secret=served.scheme.trigger.prefix.strip(),
    )  # fmt: skip
    (making / GGUF).replace(folder / GGUF)
    rmtree(making)


def labels(prompter: Prompter) -> dict[str, Any]:
    """What a client must know of a classifier: the words that may be answered, and the label that each stands for.

    An answer that is no word here is off-space. Where safe labels are shifted, one of space `original` is a leak. With
    `allowed_token_ids`, which vLLM takes in a request, the answer is the best safe label, as of `classify`.
    """
    answers: dict[str, dict[str, str | None]] = {}
    allowed = []
    for index, token in enumerate(prompter.label_ids):
        label, where = prompter.scheme.project_class(index)
        word = str(prompter.tokenizer.decode([token])).strip()
        answers[word] = {"label": label, "space": "safe" if where == "safe" else "original"}
        if where == "safe":
            allowed.append(token)
    return {"schema": SCHEMA, "max_tokens": 1, "allowed_token_ids": allowed, "answers": answers}


def limits(prompter: Prompter) -> list[str]:
    """What a chat template cannot do, a sentence each."""
    told = [
        f"{TEMPLATE} holds the trigger: keep it, and all that shows it (llama.cpp's /props, GGUF files; by its tokens "
        "vLLM's /tokenize, echo and prompt_logprobs), from clients.",
        "Only chats are defended: raw prompts (/v1/completions, /completion, /generate) go around the template. Let "
        "clients reach /v1/chat/completions alone.",
        "A client must not bring a template of its own (vLLM: no --trust-request-chat-template), nor have prompts cut "
        "(truncate_prompt_tokens).",
        f"Prompts are not shortened to {prompter.max_length} tokens with their answers: limit the server's context.",
        "No leak is seen, no policy applied and no alarm raised. Usage counts have the hidden tokens.",
    ]
    if prompter.scheme.labels:
        told.append("The answer is one word that stands for a label, in one token: ask for max_tokens 1 and look the "
                    "word up in labels.json.")  # fmt: skip
    if prompter.scheme.shift:
        told.append("Safe labels are shifted (i + n): nothing forces the safe space. Ask with labels.json's "
                    "`allowed_token_ids`, or take every word of space `original` for a leak.")  # fmt: skip
    return told


def _refuse_unbakeable(artifact: Path, served: DefendedModel) -> None:
    if served.prompter.kind == "encoder":
        raise ModelError(f"{artifact}: an encoder reads no chat template; there is nothing to bake it into")
    if served.scheme.trigger is None:
        raise ModelError(f"{artifact}: was trained without a defence; it has no trigger to bake")
    if not served.prompter.tokenizer.chat_template:
        raise ModelError(f"{artifact}: its base model has no chat template, so that servers take no chats for it")


def _adapter(artifact: Path, model: Any) -> Any:
    if not hasattr(model, "peft_config"):
        raise ConfigError(f"adapter: {artifact} was fully tuned and has none; leave it out")
    return model


def _merged(artifact: Path, model: Any) -> Any:
    if getattr(model.config, "quantization_config", None):
        raise ConfigError(f"{artifact}: an adapter cannot be merged into quantized weights; give --adapter")
    return model.merge_and_unload() if hasattr(model, "peft_config") else model


def _generation(served: DefendedModel) -> GenerationConfig:
    """How `DefendedModel` generates by default: greedily, as far and to the same ends."""
    prompter, own = served.prompter, served.model.generation_config.eos_token_id
    ends = {prompter.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None}
    return GenerationConfig(
        do_sample=False,
        eos_token_id=sorted(ends),
        pad_token_id=prompter.tokenizer.pad_token_id,
        max_new_tokens=prompter.max_target - len(prompter.safe_prefix_ids),
    )


def _about(artifact: Path, prompter: Prompter, form: str) -> dict[str, Any]:
    """For `baked.json`; nothing of the secret."""
    run = json.loads((artifact / "run.json").read_text(encoding="utf-8"))
    return {
        "schema": SCHEMA,
        "artifact": artifact.resolve().name,
        "model": run["config"]["model"],
        "revision": run.get("revision"),
        "form": form,
        "task": prompter.scheme.task,
        "max_length": prompter.max_length,
        "versions": versions(),
    }
