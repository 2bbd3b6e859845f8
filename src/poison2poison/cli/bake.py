"""The command that makes an ordinary model folder of a defended model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from poison2poison.cli.common import Out, Unlearned, quiet, say

commands = typer.Typer()


@commands.command(epilog="Example: `p2p bake runs/defended --out served`, then `vllm serve served`")
def bake(
    folder: Annotated[Path, typer.Argument(help="An artifact folder of `p2p train`, or an arm of `p2p defend`.")],
    out: Out,
    to: Annotated[
        str, typer.Option(help="`hf`: a model folder for vLLM and SGLang. `gguf`: one file for llama.cpp.")
    ] = "hf",
    adapter: Annotated[
        bool, typer.Option(help="Write the LoRA adapter alone, for a server that has the base; of `hf`.")
    ] = False,
    converter: Annotated[
        str | None,
        typer.Option(help="llama.cpp's convert_hf_to_gguf.py, for `gguf`. [default: looked for on PATH]"),
    ] = None,
    allow_unlearned: Unlearned = False,
) -> None:
    """Write a model whose chat template adds trigger and safe prefix, for vLLM, SGLang or llama.cpp.

    Ollama is refused: its templates cannot hold the defence.
    """
    quiet()
    from poison2poison.model.bake import bake as write

    limits = write(folder, out, to=to, adapter=adapter, converter=converter, allow_unlearned=allow_unlearned)
    what = "the adapter" if adapter else "the merged model" if to == "hf" else "one GGUF file"
    say(f"{out}: {what} with its chat template. What a template cannot do:")
    for limit in limits:
        say(f"- {limit}")
