"""Files that are either whole or not there, and JSON that says what made it."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import platform
import secrets
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import MISSING, fields
from glob import escape
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from poison2poison.errors import DataError, OutputError, listed, told

Entry = TypeVar("Entry")

TOKEN = 8
"""Random bytes in the name of what is half-written."""


def write_text(path: Path, text: str, *, private: bool = False) -> None:
    """Write a file through a temporary neighbour, so that a reader never sees half of it.

    Raises:
        OutputError: It cannot be written.
    """
    temporary = _neighbour(path)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Made with its mode, not given it later: so the user's umask holds, and a secret is never open to others.
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object as indented JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_lines(path: Path, values: Iterable[Mapping[str, Any]], *, private: bool = False) -> None:
    """Write one JSON object a line."""
    text = "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)
    write_text(path, text, private=private)


def read_lines(path: Path, kind: type[Entry]) -> Iterator[tuple[str, Entry]]:
    """The objects of a file, one a line, each with its place.

    Args:
        path: The file.
        kind: A dataclass, whose fields are those of an object; one with a default may be missing. It raises a
            ValueError where a value is not what it must be.

    Raises:
        DataError: The file is missing or broken, by line and field.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{path}, line {number}"
            yield where, _entry(line, kind, where)


def _entry(line: str, kind: type[Entry], where: str) -> Entry:
    known = fields(kind)  # type: ignore[arg-type]
    legal, needed = [entry.name for entry in known], {entry.name for entry in known if entry.default is MISSING}
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: broken JSON ({error})") from None
    if not isinstance(content, dict) or not needed <= {*content} <= {*legal}:
        held = listed(content) if isinstance(content, dict) else told(content)
        raise DataError(f"{where}: must have the fields {', '.join(legal)}, and has {held}")
    try:
        return kind(**content)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None


def refuse_taken(out: Path) -> None:
    """Refuse a folder that holds something.

    Raises:
        OutputError: It does.
    """
    if out.exists() and any(out.iterdir()):
        raise OutputError(f"{out}: is not empty; give another --out, or delete it")


def refuse_unwritable(path: Path) -> None:
    """Refuse a file that could not be written, before the work whose result it is for.

    Raises:
        OutputError: It is a folder, or lies where nothing can be made.
    """
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; give a file")
    place = next(folder for folder in path.absolute().parents if folder.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise OutputError(f"{path}: cannot be written ({place} is no folder that can be written to)")


def keep_from_git(folder: Path, *names: str) -> None:
    """Have git ignore secret files of a folder, and the hub too when the folder is uploaded."""
    write_text(folder / ".gitignore", "".join(f"/{name}\n" for name in names))


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `folder` (missing or empty) when all is written.

    Raises:
        OutputError: It cannot be made.
    """
    folder = folder.resolve()  # `.` has no name
    half = _neighbour(folder)
    with writing(folder):
        half.mkdir(parents=True)
    try:
        yield half
        with writing(folder):
            half.replace(folder)
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """A folder that this process alone makes or goes on with. The system takes the lock of a process that has died.

    Raises:
        OutputError: Another process has it.
    """
    folder = folder.resolve()
    path = folder.with_name(f".{folder.name}.lock")
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise OutputError(
                f"{folder}: another process is at work there; wait for it, or give another --out"
            ) from None
    try:
        _sweep(folder)
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # while it is held: who waits for it looks again whether it is still there
        lock.release()


def _sweep(folder: Path) -> None:
    """Delete the halves of a folder that killed processes left beside it: who has the lock is the one at work on it."""
    for half in folder.parent.glob(f".{escape(folder.name)}.{'[0-9a-f]' * 2 * TOKEN}"):
        shutil.rmtree(half, ignore_errors=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say what could not be written; the system's own errors often don't.

    Raises:
        OutputError: A file or folder cannot be made or written, as on a full disk.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error


def _neighbour(path: Path) -> Path:
    """A hidden name in the same folder that nothing has."""
    return path.with_name(f".{path.name}.{secrets.token_hex(TOKEN)}")


def fingerprint(value: Any, key: str) -> str:
    """HMAC-SHA-256 of a JSON-able value: without the key it does not tell whether a guess at the value is right."""
    return hmac.new(key.encode(), json.dumps(value, sort_keys=True).encode(), hashlib.sha256).hexdigest()


def hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Sha-256 of files of a folder, by their names within it.

    Model cards are left out: people write into them, and nothing reads them.

    Args:
        folder: The folder.
        names: Files and folders in it, with all that is in these; what is not there is left out.
    """
    inside = [path for name in names for path in ((folder / name), *sorted((folder / name).rglob("*")))]
    files = [path for path in inside if path.is_file() and path.name != "README.md"]
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in files}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def command_line() -> str:
    """What this process was started with; of another program than `p2p` its name alone, for its options are unknown."""
    program, *given = sys.argv
    name = Path(program).name
    return shlex.join(["p2p", *given]) if name in ("p2p", "__main__.py") else name


def versions() -> dict[str, str]:
    """Versions of what a figure depends on."""
    packages = ("poison2poison", "torch", "transformers", "peft", "accelerate", "tokenizers")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}
