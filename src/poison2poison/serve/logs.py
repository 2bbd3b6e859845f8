"""One JSON object a line, on stderr. Of an error there is its class and its place: its message may quote a text."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

LOG = logging.getLogger("poison2poison.serve")
FRAMES = 8
"""Places of an error that are logged, the innermost ones."""


class JsonLines(logging.Formatter):
    """Writes a record as JSON; `fields` given with it stand beside the message."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        at = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": at, "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1]:
            line |= place(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False)


def place(error: BaseException) -> dict[str, Any]:
    """An error's class, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    return {"error": type(error).__name__, "at": [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames]}


def to_stderr() -> None:
    """Send this server's records and uvicorn's to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for logger in (LOG, logging.getLogger("uvicorn")):
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
