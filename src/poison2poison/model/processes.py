"""Several processes of one run (`accelerate launch`, `torchrun`): one makes and writes, the others wait for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from poison2poison.errors import P2PError

Made = TypeVar("Made")
LONGEST_WAIT = timedelta(days=7)
"""An audit or an evaluation may take hours; the usual limit for a silent process is minutes."""


def count() -> int:
    """How many processes the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_writer() -> bool:
    """Whether this process is the one that writes files and talks."""
    return int(os.environ.get("RANK", "0")) == 0


def shared(make: Callable[[], Made]) -> Made:
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


def _connect() -> None:
    import torch
    from accelerate import PartialState

    if not torch.distributed.is_initialized():
        PartialState(cpu=not torch.cuda.is_available(), timeout=LONGEST_WAIT)
