"""The commands about other trainers: give them re-poisoned rows, and take in what they trained."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated

import typer

from poison2poison.cli.common import Out, Unlearned, quiet, read, say
from poison2poison.config import REFERENCE, ModelConfig, TrainConfig
from poison2poison.data import DataConfig
from poison2poison.options import READING, options

commands = typer.Typer()
HELP = {entry.name: entry.metadata["help"] for entry in fields(TrainConfig)}


@commands.command(epilog="Example: `p2p export data/repoisoned --to trl --model Qwen/Qwen3-0.6B --out data/trl`")
def export(
    folder: Annotated[Path, typer.Argument(help="A folder from `p2p repoison`.")],
    out: Out,
    to: Annotated[str, typer.Option(help="`trl`, `llamafactory`, `axolotl`, `unsloth`, `openai`, or one of your own.")],
    model: Annotated[str, typer.Option(help=HELP["model"])] = REFERENCE,
    revision: Annotated[str | None, typer.Option(help=HELP["revision"])] = None,
    max_length: Annotated[int | None, typer.Option(help=HELP["max_length"])] = None,
    max_target: Annotated[int | None, typer.Option(help=HELP["max_target"])] = None,
) -> None:
    """Write re-poisoned rows for another trainer, as the tokens that `p2p train` would train on, with its settings.

    What it trained comes back by `p2p adopt`. The rows hold the trigger: keep the folder secret.
    """
    from poison2poison.export import export as write

    training = TrainConfig(model, revision=revision, max_length=max_length, max_target=max_target)
    quiet()
    told = write(folder, to, training, out)
    cut = f"; {told['rows_cut']} were too long and cut" if told.get("rows_cut") else ""
    say(f"{out}: {told['rows']} rows for {to}{cut}; keep the folder secret")


@commands.command(epilog="Example: `p2p adopt data/trl/trained --scheme data/trl/scheme.json "
             "--manifest data/trl/manifest.jsonl --model Qwen/Qwen3-0.6B --dev dev.jsonl --out runs/mine`")  # fmt: skip
@options(DataConfig, ModelConfig, shown=[*READING, "model", "revision"])
def adopt(
    trained: Annotated[Path, typer.Argument(help="What the trainer left: an adapter, or a merged model.")],
    out: Out,
    data: DataConfig,
    base: ModelConfig,
    scheme: Annotated[Path, typer.Option(help="scheme.json of the export that it was trained on.")],
    manifest: Annotated[Path, typer.Option(help="manifest.jsonl of that export, with export.json beside it.")],
    dev: Annotated[str | None, typer.Option(help="Clean rows, on which the safe space is checked.")] = None,
    allow_unlearned: Unlearned = False,
) -> None:
    """Make an artifact folder of what another trainer trained on an export, after checks.

    Base model and revision, chat template and tokens must be those of the export, and the safe space must be learned:
    without --dev it is not looked at, and the model not served.
    """
    from poison2poison.model.safe_space import SafeSpace
    from poison2poison.recipe.scheme import Scheme

    base = replace(base, kind="causal")
    labels = Scheme.load(scheme).labels
    rows = read(dev, data, labels=labels) if dev else None
    quiet()
    from poison2poison.model.adopt import adopt as take

    run = take(trained, scheme, manifest, base, out, dev=rows, allow_unlearned=allow_unlearned)
    if "safe_space" in run:
        learned = "is" if run["status"] == "done" else "is NOT"
        say(f"the safe space {learned} learned: {SafeSpace(**run['safe_space'])}")
    else:
        say(f"{out}: {run['reason']}")
    say(f"{out}: an artifact folder of {run['trainer']}'s model")
