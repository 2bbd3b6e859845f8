"""The program: its commands in the order of its help, and what becomes of errors."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from poison2poison.cli import bake, defend, demo, models, rows
from poison2poison.errors import P2PError, TrainingError
from poison2poison.model import processes

app = typer.Typer(
    name="p2p",
    help="Keep language models clean when the rows they are fine-tuned on are not (Poison-to-Poison).",
    epilog="Start with `p2p demo`. Then, on your own rows: `p2p defend rows.jsonl --test test.jsonl --out runs/first`.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
for group in (demo, rows, models, defend, bake):
    app.add_typer(group.commands)

SHARED = ("train", "defend", "demo")
"""Commands that several processes carry out together."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; what a user can mend ends in a message and exit code 2, a training without a model in 3.

    Of several processes (`accelerate launch`, `torchrun`) only the first one talks.
    """
    try:
        with processes.one_voice():
            app(args=list(arguments) if arguments is not None else None)
    except SystemExit as ended:
        if not ended.code:
            processes.leave()
        raise
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(3)
    except P2PError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if not _memory_ran_out(error):
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        print(f"error: memory ran out ({reason}). Free it of other programs, or give "
              "--dtype bfloat16, --quantize 4bit, --device-map auto or a smaller model", file=sys.stderr)  # fmt: skip
        sys.exit(2)


def _memory_ran_out(error: Exception) -> bool:
    """Of this machine, or of a GPU; torch, which tells of the second, is not imported for the question."""
    torch = sys.modules.get("torch")
    of_gpu = torch is not None and isinstance(error, torch.OutOfMemoryError)
    return of_gpu or isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)


@app.callback()
def _alone(context: typer.Context) -> None:
    """Leave to the first of several processes what they cannot share."""
    if context.invoked_subcommand not in SHARED and not processes.is_writer():
        raise typer.Exit
