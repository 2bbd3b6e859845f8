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
    adapter: Annotated[
        bool, typer.Option(help="Write the LoRA adapter alone, for a server that has the base.")
    ] = False,
    allow_unlearned: Unlearned = False,
) -> None:
    """Write a model folder whose chat template adds trigger and safe prefix, for vLLM, SGLang or llama.cpp."""
    quiet()
    from poison2poison.model.bake import bake as write

    limits = write(folder, out, adapter=adapter, allow_unlearned=allow_unlearned)
    say(f"{out}: the {'adapter' if adapter else 'merged model'} with its chat template. What a template cannot do:")
    for limit in limits:
        say(f"- {limit}")
