"""The program: its commands in the order of its help, and what becomes of errors."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from poison2poison.cli import bake, bench, defend, demo, export, models, probe, records, rows, serve, verify
from poison2poison.config import choice
from poison2poison.errors import MENDABLE, UNFINISHED, P2PError, TrainingError
from poison2poison.model import processes
from poison2poison.options import all_settings
from poison2poison.registry import run_file

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
for group in (demo, rows, models, probe, export, verify, records, defend, bench, bake, serve):
    app.add_typer(group.commands)


last = typer.Typer()


@last.command(epilog="Example: `p2p config defend > settings.yaml`")
def config(command: Annotated[str, typer.Argument(help="A command that takes --config.")]) -> None:
    """Print all settings of a command, also those that it has no option for: a file for its --config.

    Each stands there with its help and its default.
    """
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    legal = [name for name, made in commands.items() if any(option.name == "config" for option in made.params)]
    choice("command", command, legal)
    print(all_settings(commands[command]), end="")


app.add_typer(last)
SHARED = ("train", "defend", "demo")
"""Commands that several processes carry out together."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; it ends with one of the exit codes of `errors`.

    Of several processes (`accelerate launch`, `torchrun`) only the first one talks.
    """
    try:
        with processes.one_voice():
            app(args=list(arguments) if arguments is not None else None)
    except SystemExit as ended:
        if not ended.code:
            processes.leave()
        raise
    except Exception as error:
        sys.exit(_ended(error))


def _ended(error: Exception) -> int:
    """Say what went wrong: with a traceback only where the program is at fault.

    Returns:
        The exit code.
    """
    if isinstance(error, P2PError):
        print(f"error: {error}", file=sys.stderr)
        return UNFINISHED if isinstance(error, TrainingError) else MENDABLE
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        return MENDABLE
    if isinstance(error, (MemoryError, RuntimeError)) and _memory_ran_out(error):
        reason = str(error).partition("\n")[0] or type(error).__name__
        print(f"error: memory ran out ({reason}). Free it of other programs, give a smaller model, or write "
              "`dtype: bfloat16`, `quantize: 4bit` or `device_map: auto` into the file of --config",
              file=sys.stderr)  # fmt: skip
        return MENDABLE
    traceback.print_exception(error)
    print("error: the program is at fault; nothing is left half-written", file=sys.stderr)
    return UNFINISHED


def _memory_ran_out(error: Exception) -> bool:
    """Of this machine, or of a GPU; torch, which tells of the second, is not imported for the question."""
    torch = sys.modules.get("torch")
    of_gpu = torch is not None and isinstance(error, torch.OutOfMemoryError)
    return of_gpu or isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)


@app.callback()
def _before_any_command(
    context: typer.Context,
    plugin: Annotated[
        list[Path] | None,
        typer.Option(help="A Python file of your own, which is run: it registers attacks, payloads, metrics, ..."),
    ] = None,
) -> None:
    # Several processes cannot share the other commands; they are left to the first.
    if context.invoked_subcommand not in SHARED and not processes.is_writer():
        raise typer.Exit
    for path in plugin or ():
        run_file(path)
