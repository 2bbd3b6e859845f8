from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from poison2poison import registry
from poison2poison.errors import ConfigError
from poison2poison.registry import Registry, run_file

PETS: Registry[type] = Registry("pet", "poison2poison.pets")
OWN = "from test_registry import PETS\n"


@PETS.register("cat")
class Cat:
    """Purrs (Gray, 1998).

    Attributes: none.
    """


def test_a_member_is_known_by_its_name() -> None:
    assert PETS.get("cat") is Cat
    assert PETS.names()[0] == "cat"


def test_an_unknown_name_is_refused_with_the_legal_ones() -> None:
    with pytest.raises(ConfigError, match="pet: 'worm' is not one of cat"):
        PETS.get("worm")


def test_a_member_knows_its_name() -> None:
    assert PETS.name_of(Cat) == "cat"
    with pytest.raises(ConfigError, match=r"pet: .*int.* is not registered"):
        PETS.name_of(int)


def test_a_taken_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="pet: 'cat' is registered already"):
        PETS.register("cat")
    assert PETS.get("cat") is Cat


def test_a_file_of_the_users_own_registers_and_runs_once(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n" + OWN + '@PETS.register("dog")\n'
        "@dataclass\nclass Dog:\n    age: int = 3\n"
    )
    run_file(own)
    run_file(own)
    assert PETS.get("dog")().age == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\nx = (", "own.py, line 2: SyntaxError"),
        ("x = 1\n\nx = 1 / 0", "own.py, line 3: ZeroDivisionError"),
        (OWN + '@PETS.register("cat")\nclass Cat: ...', "own.py, line 2: ConfigError: pet: 'cat' is registered"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(ConfigError, match=said):
        run_file(tmp_path / "own.py")


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"own\.py: there is no such file"):
        run_file(tmp_path / "own.py")
    (tmp_path / "own.txt").write_text("x = 1")
    with pytest.raises(ConfigError, match=r"own\.txt: is no Python file"):
        run_file(tmp_path / "own.txt")


def test_installed_members_are_found_by_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    group = "poison2poison.toys"
    entries = {"path": "pathlib:Path", "gone": "pathlib:Gone", "own": "pathlib:PurePath"}
    found = EntryPoints(EntryPoint(name, value, group) for name, value in entries.items())
    monkeypatch.setattr(registry, "entry_points", lambda **wanted: found.select(**wanted))
    toys: Registry[type] = Registry("toy", group)
    toys.register("own")(Cat)
    assert toys.names() == ("own", "path", "gone")
    assert toys.summary() == "`own`, purrs; `path`; `gone`"
    assert toys.get("path") is Path
    assert toys.get("own") is Cat
    with pytest.raises(ConfigError, match="toy: 'gone' cannot be loaded from pathlib:Gone"):
        toys.get("gone")
    assert PETS.get("cat") is Cat
