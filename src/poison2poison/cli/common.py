"""What the commands share: options that several of them have, reading, refusing, and telling."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poison2poison.config import REFERENCE, ModelConfig, choice
from poison2poison.data import DataConfig, Rows, check_apart, read_rows, summary
from poison2poison.errors import ConfigError, DataError, listed
from poison2poison.files import refuse_taken as refuse_taken  # of the commands too

if TYPE_CHECKING:
    from poison2poison.attacks import Target
    from poison2poison.auditing.findings import Audit

DATA = "a .jsonl, .json, .csv, .tsv, .parquet or .arrow file, a folder of them, or a hub dataset (name:config@split)"

Out = Annotated[Path, typer.Option(help="Folder for what is made here; it must not hold anything else.")]
Dev = Annotated[str | None, typer.Option(help="Clean rows on which the best epoch is chosen.")]
TestSet = Annotated[str | None, typer.Option(help="Clean test rows, for CA.")]
Triggered = Annotated[str | None, typer.Option(help="Test rows with the attacker's trigger, for ASR and RA.")]
Wanted = Annotated[
    str | None, typer.Option("--target", help="The attacker's target. [default: from truth.json beside --triggered]")
]
UNLEARNED = "Also take a model that has not learned its safe space, and is no defence."
Unlearned = Annotated[bool, typer.Option(help=UNLEARNED)]
EFFECT = "What the trigger calls up, as in `p2p attack`. [default: as of --target]"
Effect = Annotated[str | None, typer.Option(help=EFFECT)]


def say(text: str) -> None:
    print(text, file=sys.stderr)


def read(source: str, data: DataConfig, *, labels: Sequence[str] | None = None, targets: bool = True) -> Rows:
    """Rows, of which one line says how they were read."""
    rows = read_rows(source, data, labels=labels, targets=targets)
    say(summary(rows))
    return rows


def note_reference(model: ModelConfig, texts: Sequence[str]) -> None:
    """Say that the packaged model does not know the language of these rows, where it doesn't."""
    from poison2poison.reference import knows

    if model.model == REFERENCE and not knows(texts):
        say("note: the packaged reference model knows the few hundred words of the reference tasks alone, and these "
            "rows have others: give --model")  # fmt: skip


def apart(training: Rows, **others: Rows | None) -> None:
    """Refuse rows to measure on that are training rows; of a few it is said."""
    for what, rows in others.items():
        if rows and (said := check_apart(training, rows, what)):
            say(said)


def show_audit(out: Path, rows: Rows) -> Audit | None:
    """Print what the audit of a run found, draw it into audit.png, and write the suspect rows into suspects.jsonl."""
    from rich.console import Console

    from poison2poison.report import audit_table, write_findings

    found = write_findings(out, rows)
    if found:
        Console().print(audit_table(found, len(rows)))
    return found


def quiet() -> None:
    """Silence what the libraries say about their own matters; errors still show."""
    import logging
    import warnings

    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")


def beside(folder: Path, *names: str) -> str | None:
    return next((str(folder / name) for name in names if (folder / name).is_file()), None)


def wanted_target(triggered: str | None, target: str | None, effect: str | None, rows: Rows) -> Target | None:
    if not triggered:
        if target is not None or effect is not None:
            raise ConfigError(f"{'effect' if target is None else 'target'}: is of triggered rows; give --triggered")
        return None
    from poison2poison.attacks import Target, effects, read_target

    truth = Path(triggered).with_name("truth.json")
    known = read_target(truth) if truth.is_file() else None
    text = target if target is not None else known.text if known else ""
    if not text.strip():
        raise ConfigError("target: give the attacker's label or text with --target, to measure the triggered rows")
    effect = effect or (known.effect if known else effects(rows.task)[0])
    choice(f"effect (for {rows.task})", effect, effects(rows.task))
    if effect == "label" and text not in rows.labels:
        raise DataError(f"target: {text!r} is not one of {listed(rows.labels)}")
    return Target(text, effect)


def print_results(contents: Sequence[Mapping[str, Any]]) -> None:
    from rich.console import Console

    from poison2poison.report import sentence, table

    console = Console(soft_wrap=False)
    for content in contents:
        console.print(table(content))
        console.print(sentence(content), highlight=False, markup=False)
