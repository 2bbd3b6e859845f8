"""Who may know the truth: what each module imports, read from the sources."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import poison2poison

ROOT = Path(poison2poison.__file__).parent
DEFENCE = ("auditing", "config", "data", "defences", "features", "forms", "model", "recipe", "scoring")


def modules() -> dict[str, Path]:
    """The source of each module; a package is its `__init__`."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of the project that a module imports, in functions too, with the packages that they are in."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    parents = {".".join(name.split(".")[:size]) for name in names for size in range(2, len(name.split(".")))}
    return (names | parents) & known.keys() - {"poison2poison"}


@pytest.mark.parametrize("part", DEFENCE)
def test_no_module_of_the_defence_reaches_the_attacks(part: str) -> None:
    known = modules()
    start = {name for name in known if f"{name}.".startswith(f"poison2poison.{part}.")}
    assert start
    reached, new = set(start), set(start)
    while new:
        new = set().union(*(imported(known[name], known) for name in new)) - reached
        reached |= new
    assert not [name for name in reached if name.split(".")[1] in ("attacks", "evaluation")]
