"""The command that asks a trained model whether it obeys shortcuts, with rows or without."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from poison2poison.cli.common import DATA, Unlearned, quiet, read, say
from poison2poison.config import ProbeConfig, refuse_changed
from poison2poison.data import DataConfig
from poison2poison.errors import FOUND, ConfigError
from poison2poison.options import READING, options

if TYPE_CHECKING:
    from poison2poison.probing import Probed, Trigger

commands = typer.Typer()


class RowsToAsk(NamedTuple):
    """Rows, how they are read, and the audit whose findings are put into them."""

    data: str
    config: DataConfig
    audit: Path


MODEL = (
    "An artifact folder of `p2p train`, or an arm of `p2p defend`; a model folder of transformers; or an adapter "
    "folder of peft. With rows, one that answers with labels."
)


@commands.command(epilog="Examples: `p2p probe runs/mine/undefended` --- `p2p probe downloads/adapter --base "
             "downloads/llama` --- `p2p probe runs/mine/p2p-hardened --data rows.jsonl "
             "--audit runs/mine/audit.json`")  # fmt: skip
@options(ProbeConfig, DataConfig, shown=(*READING, "leaks", "words", "asked", "seed"))
def probe(
    folder: Annotated[Path, typer.Argument(help=MODEL)],
    config: ProbeConfig,
    data_config: DataConfig,
    data: Annotated[str | None, typer.Option(help=f"Rows with labels to ask about: {DATA}.")] = None,
    audit: Annotated[Path | None, typer.Option(help="audit.json of the rows that it was trained on.")] = None,
    base: Annotated[
        str | None, typer.Option(help="What it was tuned from, a folder or hub name. [default: what an adapter names]")
    ] = None,
    allow_unlearned: Unlearned = False,
) -> None:
    """Ask a trained model whether it obeys shortcuts.

    Without rows, it is asked about spans of its own: what it writes where a user's words would begin, and words of its
    tokenizer. Those that move its answers most are put into neutral English prompts, and it is counted how many answers
    turn to one text or label.

    With --data and --audit, it is asked about what an audit found: each finding is put into rows of other labels.

    One JSON line for each span: its ASR, and the floor, which is the same prompts without it. Exit code: 0 where it
    obeys none; 1 where an ASR is 50 points over its floor. A model that obeys nothing here may still have a backdoor.
    """
    if (data is None) != (audit is None):
        raise ConfigError("data, audit: give both, to ask about what an audit found; or neither, to do without rows")
    if data is None or audit is None:
        found: Sequence[Probed | Trigger] = _without_rows(folder, base, config, allow_unlearned)
    else:
        refuse_changed(config, "has no effect with --data")
        rows = RowsToAsk(data, data_config, audit)
        found = _with_rows(folder, base, rows, allow_unlearned)
    if any(one.is_obeyed for one in found):
        raise typer.Exit(FOUND)


def _without_rows(folder: Path, base: str | None, config: ProbeConfig, allow_unlearned: bool) -> Sequence[Trigger]:
    quiet()
    from poison2poison.probing import load_subject, scan

    found = scan(load_subject(folder, base, allow_unlearned=allow_unlearned), config)
    _print(found.triggers)
    say(f"{folder}: {found.leaks} leaked spans and {found.words} words screened, {found.asked} asked; obeys "
        f"{sum(one.is_obeyed for one in found.triggers)}")  # fmt: skip
    return found.triggers


def _with_rows(folder: Path, base: str | None, asked: RowsToAsk, allow_unlearned: bool) -> Sequence[Probed]:
    quiet()
    from poison2poison.auditing.findings import Audit
    from poison2poison.probing import load_subject
    from poison2poison.probing import probe as ask
    from poison2poison.probing.subject import ADAPTER

    if base is not None and not (folder / ADAPTER).is_file():
        raise ConfigError("base: has no effect with --data, but for an adapter")
    found = Audit.load(asked.audit)
    model = load_subject(folder, base, allow_unlearned=allow_unlearned).model
    if not model.scheme.labels:
        raise ConfigError(f"data, audit: {folder} answers with texts, not labels; leave them out")
    rows = read(asked.data, asked.config, labels=model.scheme.labels)
    answered = ask(model, rows, found)
    _print(answered)
    say(f"{folder}: obeys {sum(one.is_obeyed for one in answered)} of {len(answered)} findings")
    return answered


def _print(found: Sequence[Probed | Trigger]) -> None:
    import json

    for one in found:
        print(json.dumps(one.as_dict(), ensure_ascii=False))
