"""The command that goes the whole path: audit, re-poison, fine-tune, measure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from poison2poison.cli.common import (
    DATA,
    EFFECT,
    UNLEARNED,
    Dev,
    Out,
    TestSet,
    Triggered,
    Wanted,
    apart,
    beside,
    note_reference,
    print_results,
    quiet,
    read,
    say,
    show_audit,
    wanted_target,
)
from poison2poison.config import AuditConfig, TrainConfig
from poison2poison.data import DataConfig, Rows, check_trainable
from poison2poison.errors import ConfigError
from poison2poison.model import processes
from poison2poison.options import READING, options
from poison2poison.recipe.config import RepoisonConfig

if TYPE_CHECKING:
    from poison2poison.pipeline import Data

commands = typer.Typer()
SHOWN = (*READING, "recipe", "model", "epochs", "batch_size", "learning_rate", "seed")


@commands.command(epilog="Examples: `p2p defend rows.jsonl --test test.jsonl --out runs/mine` --- "
             "`p2p defend data/reviews --compare undefended --floor --out runs/reviews` (a folder of `p2p attack`)"
             )  # fmt: skip
@options(DataConfig, AuditConfig, RepoisonConfig, TrainConfig, shown=SHOWN)
def defend(
    source: Annotated[
        str, typer.Argument(help=f"The untrusted training rows: {DATA}; or a folder that `p2p attack` wrote.")
    ],
    out: Out,
    data: DataConfig,
    audit_config: AuditConfig,
    recipe: RepoisonConfig,
    training: TrainConfig,
    dev: Dev = None,
    test: TestSet = None,
    triggered: Triggered = None,
    target: Wanted = None,
    compare: Annotated[
        str,
        typer.Option(
            help="Other defences to train and measure in the same way, with commas, options behind a name: "
            "undefended,strip:copies=10. A name that is none lists all."
        ),
    ] = "",
    floor: Annotated[
        bool,
        typer.Option(
            help="Also train without the attack, for the floor: on train_clean.jsonl beside the rows, or where that is"
            " missing without the rows that truth.json names. For evaluation only."
        ),
    ] = False,
    effect: Annotated[str | None, typer.Option(help=EFFECT, hidden=True)] = None,
    allow_unlearned: Annotated[bool, typer.Option(help=UNLEARNED, hidden=True)] = False,
) -> None:
    """Audit, re-poison, fine-tune and measure in one go. Run it again to go on where it was interrupted.

    The model to serve is in the folder p2p-RECIPE of --out; report.html, results.json and rows.jsonl stand beside it,
    and what the audit found: audit.json, audit.png and suspects.jsonl.
    """
    given = _given(source, data, dev, test, triggered, target, effect, floor=floor)
    note_reference(training, [row.text for row in given.train])

    from poison2poison import pipeline
    from poison2poison.defences.p2p import of_run
    from poison2poison.files import write_text
    from poison2poison.report import page, read_run

    defence, defences = of_run(recipe, compare)
    content = pipeline.defend(given, defences, training, out, audit=audit_config, allow_unlearned=allow_unlearned)
    if processes.is_writer():
        show_audit(out, given.train)
        write_text(out / "report.html", page(read_run(out)))
    print_results([content])
    say(f"the model to serve: {out / defence.arm}; all figures: {out / 'results.json'}, {out / 'report.html'}")


def _given(
    source: str,
    data: DataConfig,
    dev: str | None,
    test: str | None,
    triggered: str | None,
    target: str | None,
    effect: str | None,
    *,
    floor: bool,
) -> Data:
    """The rows to defend on and those to measure on; beside rows of `p2p attack` the others are found."""
    folder = Path(source) if (Path(source) / "train.jsonl").is_file() else None
    if folder:
        source, dev = str(folder / "train.jsonl"), dev or beside(folder, "dev_clean.jsonl", "dev.jsonl")
        test = test or beside(folder, "test_clean.jsonl", "test.jsonl")
        triggered = triggered or beside(folder, "test_triggered.jsonl")
    if not test:
        raise ConfigError("give clean test rows with --test; without them nothing can be measured")
    rows = read(source, data)
    check_trainable(rows)
    clean = read(test, data, labels=rows.labels)
    attacked = read(triggered, data, labels=rows.labels, targets=False) if triggered else None
    wanted = wanted_target(triggered, target, effect, clean)
    checks = read(dev, data, labels=rows.labels) if dev else None
    apart(rows, test=clean, dev=checks)
    if floor and not attacked:
        raise ConfigError("floor: is measured on triggered rows; give --triggered")
    quiet()
    from poison2poison.pipeline import Data

    name = folder.resolve().name if folder else Path(source).stem
    return Data(name, rows, checks, clean, attacked, wanted, _harmless(rows, source, data) if floor else None)


def _harmless(rows: Rows, source: str, data: DataConfig) -> Rows:
    """The rows without the attack: those that `p2p attack` kept, or all but those that the truth names."""
    from poison2poison.evaluation import read_truth, without_poison

    before, truth = (Path(source).with_name(name) for name in ("train_clean.jsonl", "truth.json"))
    if before.is_file():
        return read(str(before), data, labels=rows.labels)
    return without_poison(rows, read_truth(truth), truth)
