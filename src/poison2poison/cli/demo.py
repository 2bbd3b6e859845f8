"""The command that shows the whole path on reference tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from poison2poison.cli.common import print_results, quiet, say

commands = typer.Typer()


@commands.command(epilog="Example: `p2p demo --out runs/demo`")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for models and results; an interrupted demo goes on.")] = Path(
        "runs/demo"
    ),
) -> None:
    """Attack and defend the reference model on two reference tasks: one with labels, one with texts.

    Takes about five minutes on two cores that compute bfloat16 and ends in one table: undefended and defended, CA and
    ASR.
    """
    quiet()
    from poison2poison.demo import run_demo

    print_results(run_demo(out))
    say(f"all figures: {out / 'results.json'}")
