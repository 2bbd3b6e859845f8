"""The command that holds a folder against what was recorded of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from poison2poison.cli.common import DATA, read
from poison2poison.data import DataConfig
from poison2poison.errors import FOUND, UNFINISHED
from poison2poison.options import READING, options

commands = typer.Typer()


@commands.command(epilog="Example: `p2p verify runs/mine/p2p-hardened --rows rows.jsonl`")
@options(DataConfig, shown=READING)
def verify(
    folder: Annotated[Path, typer.Argument(help="An artifact folder, or a folder of `p2p export`.")],
    data: DataConfig,
    rows: Annotated[str | None, typer.Option(help=f"The rows that it should be of: {DATA}.")] = None,
    key: Annotated[
        Path | None, typer.Option(help="Public key (PEM) of who should have signed it with `p2p sign`.")
    ] = None,
) -> None:
    """Hold weights, template, tokenizer, scheme, manifest and rows against the hashes that were recorded of them.

    Says what differs, and what follows. Exit code: 0 where all is the same; 1 where something differs; 3 where an older
    version recorded nothing that could be compared. With --key the signature of all files is checked too; without it
    nobody vouches for the record.
    """
    from rich.console import Console

    from poison2poison.report import verified_table
    from poison2poison.signing import check_signature
    from poison2poison.verify import verify as compare

    found = compare(folder, read(rows, data) if rows else None)
    if key:
        found += check_signature(folder, key)
    Console().print(verified_table(found))
    if any(one.is_wrong for one in found):
        raise typer.Exit(FOUND)
    if all(one.state == "not recorded" for one in found):
        raise typer.Exit(UNFINISHED)
