"""Files that are either whole or not there, and JSON that says what made it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str, *, private: bool = False) -> None:
    """Write a file through a temporary neighbour, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).chmod(0o600 if private else 0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object as indented JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_lines(path: Path, values: Iterable[Mapping[str, Any]], *, private: bool = False) -> None:
    """Write one JSON object a line."""
    text = "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)
    write_text(path, text, private=private)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `folder` (missing or empty) when all is written."""
    folder = folder.resolve()  # `.` has no name
    folder.parent.mkdir(parents=True, exist_ok=True)
    half = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield half
        half.chmod(0o755)
        half.replace(folder)
    except BaseException:
        shutil.rmtree(half)
        raise


def fingerprint(value: Any) -> str:
    """Sha-256 of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of what a figure depends on."""
    packages = ("poison2poison", "torch", "transformers", "peft", "accelerate", "tokenizers")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}
