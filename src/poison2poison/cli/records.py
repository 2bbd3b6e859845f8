"""The commands that write records of an artifact for others, and sign it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from poison2poison.cli.common import Out, beside, say
from poison2poison.errors import ConfigError

commands = typer.Typer()
NEEDED = ("cyclonedx", "mlcroissant")


@commands.command(epilog="Example: `p2p record runs/mine/p2p-hardened --out runs/mine/records`")
def record(
    folder: Annotated[Path, typer.Argument(help="An artifact folder of `p2p train`, or an arm of `p2p defend`.")],
    out: Out,
    results: Annotated[
        Path | None,
        typer.Option(help="results.json with figures of it. [default: the one beside the folder, if it has any]"),
    ] = None,
) -> None:
    """Write records of an artifact for others, without the secret trigger (extra `records`).

    bom.cdx.json is a CycloneDX 1.6 ML-BOM. croissant.json describes rows.jsonl, which says of every training row what
    was done to it, and marks the synthetic ones. README.md is a model card for the hub.
    """
    if any(importlib.util.find_spec(name) is None for name in NEEDED):
        raise ConfigError("record: its libraries are not installed; `pip install poison2poison[records]`")
    from poison2poison.records import write_records

    facts = write_records(folder, results or _beside(folder), out)
    told = f"figures: {len(facts.figures)}" if facts.figures else "no figures: give --results"
    say(f"{out}: bom.cdx.json, croissant.json, rows.jsonl, README.md; {told}")


def _beside(folder: Path) -> Path | None:
    """The figures of `p2p defend`, which made this arm."""
    import json

    found = beside(folder.resolve().parent, "results.json")
    if found is None:
        return None
    try:
        names = [arm["name"] for arm in json.loads(Path(found).read_text(encoding="utf-8"))["arms"]]
    except (ValueError, KeyError, TypeError):
        return None
    return Path(found) if folder.resolve().name in names else None


@commands.command(epilog="Example: `p2p sign runs/mine/p2p-hardened --key private.pem`")
def sign(
    folder: Annotated[Path, typer.Argument(help="An artifact folder, or a folder of `p2p export`.")],
    key: Annotated[Path, typer.Option(help="The private key: PEM, of curve P-256, P-384 or P-521, no password.")],
) -> None:
    """Sign all files of a folder with a key of your own, offline (extra `records`).

    Writes model.sig into it, in the format of OpenSSF Model Signing; `p2p verify --key` checks it. What differs from
    its record is not signed.
    """
    from poison2poison.signing import sign as make

    say(f"{make(folder, key)}: signed")
