"""Registries: the members of a family (attacks, payloads, metrics, ...) by their names, and a user's own beside them.

A user's own come in two ways: from a file that registers them as the project's modules do (`run_file`), or from an
installed package, by an entry point whose group is the family's and whose name is the member's.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Generic, TypeVar

from poison2poison.config import choice
from poison2poison.errors import ConfigError

Member = TypeVar("Member")
OWN = "poison2poison_own:"
"""Before the path, the name of a module that is a user's file."""


class Registry(Generic[Member]):
    """The members of one family: classes or functions.

    Attributes:
        family: What one member is called in messages, `attack`.
        group: The entry point group of the members that other packages install, `poison2poison.attacks`.
    """

    def __init__(self, family: str, group: str) -> None:
        self.family = family
        self.group = group
        self._members: dict[str, Member] = {}

    def register(self, name: str) -> Callable[[Member], Member]:
        """A decorator that makes a class or a function a member.

        Raises:
            ConfigError: The name is taken.
        """
        if name in self._members:
            raise ConfigError(f"{self.family}: {name!r} is registered already; give another name")

        def add(member: Member) -> Member:
            self._members[name] = member
            return member

        return add

    def names(self) -> tuple[str, ...]:
        """The names of all members: those registered, in their order, then those installed. Loads none of these."""
        return tuple(dict.fromkeys([*self._members, *self._installed]))

    def get(self, name: str) -> Member:
        """The member of that name; one that is registered wins over one that is installed.

        Raises:
            ConfigError: There is none, with the names there are; or an installed one cannot be loaded.
        """
        choice(self.family, name, self.names())
        if name not in self._members:
            self._members[name] = self._load(self._installed[name])
        return self._members[name]

    def items(self) -> Iterator[tuple[str, Member]]:
        """All members by their names, in the order of `names`.

        Raises:
            ConfigError: An installed one cannot be loaded.
        """
        return ((name, self.get(name)) for name in self.names())

    def name_of(self, member: Member) -> str:
        """The name under which a member is registered.

        Raises:
            ConfigError: It is not.
        """
        names = [name for name, known in self._members.items() if known is member]
        if not names:
            raise ConfigError(f"{self.family}: {member!r} is not registered")
        return names[0]

    def summary(self) -> str:
        """What each registered member is, by the beginning of its docstring, and the names of those installed."""
        told = []
        for name in self.names():
            first, _, _ = (inspect.getdoc(self._members.get(name)) or "").partition("\n")
            meant = first.partition(" (")[0].rstrip(".")
            told.append(f"`{name}`, {meant[0].lower()}{meant[1:]}" if name in self._members and meant else f"`{name}`")
        return "; ".join(told)

    @cached_property
    def _installed(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=self.group)}

    def _load(self, entry: EntryPoint) -> Member:
        try:
            member: Member = entry.load()
        except Exception as error:  # whatever somebody else's package raises
            raise ConfigError(
                f"{self.family}: {entry.name!r} cannot be loaded from {entry.value} ({type(error).__name__}: {error})"
            ) from error
        return member


def run_file(path: Path) -> None:
    """Run a Python file of the user's own, so that what it registers is known; a file that ran already is left alone.

    Raises:
        ConfigError: The file cannot be read, or what it does fails; with the line.
    """
    path = path.resolve()
    name = f"{OWN}{path}"
    if name in sys.modules:
        return
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: is no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever somebody else's code raises
        del sys.modules[name]
        raise ConfigError(f"{path}, line {_line(error, path)}: {type(error).__name__}: {error}") from error


def files_run() -> list[str]:
    """The files that `run_file` ran in this process, for one that shall know the same."""
    return [name.removeprefix(OWN) for name in sys.modules if name.startswith(OWN)]


def _line(error: Exception, path: Path) -> int | None:
    """The line of the file that an error comes from."""
    if isinstance(error, SyntaxError):
        return error.lineno
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return lines[-1] if lines else None
