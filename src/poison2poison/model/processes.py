"""Processes of one run (`accelerate launch`, `torchrun`): one makes, writes and talks; the others wait for it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from poison2poison.errors import P2PError
from poison2poison.files import locked

Made = TypeVar("Made")
LONGEST_WAIT = timedelta(days=7)
"""An audit or an evaluation may take hours; the usual limit for a silent process is minutes."""
PATIENCE = 10.0
"""Seconds that a failed process leaves the writer to meet the same error and say so."""


def count() -> int:
    """How many processes the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_writer() -> bool:
    """Whether this process is the one that writes files and talks."""
    return int(os.environ.get("RANK", "0")) == 0


def once(make: Callable[[], Made]) -> Made:
    """What the writer makes, in every process; or the error that it met, in every process.

    Raises:
        P2PError: The one that `make` raised.
    """
    if count() == 1:
        return make()
    from accelerate.utils import broadcast_object_list

    _connect()
    box: list[object] = [None, None]
    if is_writer():
        try:
            box[0] = make()
        except P2PError as error:
            box[1] = error
    broadcast_object_list(box)
    if isinstance(box[1], P2PError):
        raise box[1]
    return box[0]  # type: ignore[return-value]


def anywhere(found: bool) -> bool:
    """Whether any process has found something."""
    if count() == 1:
        return found
    from accelerate.utils import gather_object

    _connect()
    return any(gather_object([found]))


def wait() -> None:
    """Until every process is here."""
    if count() > 1:
        from accelerate import PartialState

        _connect()
        PartialState().wait_for_everyone()


def say(text: str) -> None:
    """Tell the user something, once, on stderr: stdout is for answers."""
    if is_writer():
        print(text, file=sys.stderr)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """A folder that this run alone makes or goes on with.

    Raises:
        OutputError: Another run has it; in every process.
    """
    with ExitStack() as held:
        once(lambda: held.enter_context(locked(folder)))
        yield


@contextmanager
def one_voice() -> Iterator[None]:
    """Let the writer alone talk; another process may where it alone failed.

    Launchers end all processes as soon as one has failed. So another one gives the writer the time to say why.
    """
    if is_writer():
        yield
        return
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        try:
            yield
        except BaseException as error:
            if not isinstance(error, SystemExit) or error.code:
                time.sleep(PATIENCE)
            raise


def leave() -> None:
    """Take leave of the other processes, with nothing left to do; torch 2.13 may abort one that ends without."""
    torch = sys.modules.get("torch")
    if torch and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _connect() -> None:
    import torch
    from accelerate import PartialState

    if not torch.distributed.is_initialized():
        PartialState(cpu=not torch.cuda.is_available(), timeout=LONGEST_WAIT)
