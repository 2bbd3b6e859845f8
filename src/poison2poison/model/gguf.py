"""A baked folder as one GGUF file, by llama.cpp's own converter."""

from __future__ import annotations

import mmap
import os
import shutil
import subprocess
import sys
from pathlib import Path

from poison2poison.errors import ConfigError, ModelError

NAMES = ("convert_hf_to_gguf.py", "convert_hf_to_gguf")
"""How packages of llama.cpp call the converter."""
UNKNOWN = "pre-tokenizer was not recognized"
"""What it says of a tokenizer of no published model."""
TYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
"""Its names of number formats: weights are written as they are."""
SHOWN = 20
"""Lines of its output in a message: the end, where the error is."""


def converter(given: str | None) -> list[str]:
    """How the converter is started.

    Args:
        given: Its path: a script for this Python, which has what it imports of torch and transformers, or a program.
            Without it, it is looked for on PATH, and runs there as it is installed.

    Raises:
        ConfigError: There is none.
    """
    if given is None:
        found = [program for name in NAMES if (program := shutil.which(name))]
        if not found:
            raise ConfigError(
                f"converter: there is no {' or '.join(NAMES)} on PATH; get llama.cpp's source "
                "(github.com/ggml-org/llama.cpp) and give its convert_hf_to_gguf.py with --converter"
            )
        return found[:1]
    path = Path(given)
    if not path.is_file():
        raise ConfigError(f"converter: {given}: there is no such file; give llama.cpp's convert_hf_to_gguf.py")
    if path.suffix == ".py":
        return [sys.executable, given]
    if not os.access(path, os.X_OK):
        raise ConfigError(f"converter: {given}: is neither a .py file nor a program")
    return [str(path.resolve())]


def convert(command: list[str], baked: Path, file: Path, *, dtype: str, name: str, template: str, secret: str) -> None:
    """Write a baked folder as one file, which its owner alone can read.

    Args:
        command: As of `converter`.
        baked: The folder.
        file: What is written, in a folder that nobody else can enter.
        dtype: torch's name of the weights' format.
        name: The model's name in the file.
        template: The chat template, which the file must hold.
        secret: Lines of the converter's output that hold it are not shown.

    Raises:
        ConfigError: The converter cannot be started.
        ModelError: It does not take this model, or left out the chat template.
    """
    asked = [*command, str(baked), "--outfile", str(file), "--outtype", TYPES[dtype], "--model-name", name]
    try:
        done = subprocess.run(
            asked, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            encoding="utf-8", errors="replace", check=False,
        )  # fmt: skip
    except OSError as error:
        raise ConfigError(f"converter: {command[-1]}: cannot be started ({error.strerror or error})") from None
    if done.returncode or not file.is_file():
        raise ModelError(_failure(command[-1], done.stdout, secret))
    file.chmod(0o600)
    if not _holds(file, template):
        raise ModelError(
            f"{command[-1]}: left the chat template out, and with it the defence; it is too old: get llama.cpp of 2026"
        )


def _failure(converter: str, said: str, secret: str) -> str:
    if UNKNOWN in said:
        return (
            f"{converter}: does not know this model's tokenizer. llama.cpp knows the tokenizers of published models "
            "alone: get its newest source, or bake with `--to hf` for vLLM or SGLang, which read any tokenizer"
        )
    lines = [line for line in said.splitlines() if line.strip() and secret not in line]
    return "\n".join([f"{converter}: failed; its output ends with", *lines[-SHOWN:]])


def _holds(file: Path, text: str) -> bool:
    """Whether a file holds a text; of a GGUF file the texts stand before the weights."""
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as held:
        return held.find(text.encode("utf-8")) >= 0
