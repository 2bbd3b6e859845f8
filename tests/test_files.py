from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from poison2poison.files import whole_folder, write_text


@pytest.fixture(params=[0o022, 0o027, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX")
def test_files_and_folders_are_as_open_as_the_user_has_them_and_secrets_are_the_owners(
    umask: int, tmp_path: Path
) -> None:
    with whole_folder(tmp_path / "out") as folder:
        write_text(folder / "figures.json", "{}")
        write_text(folder / "scheme.json", "{}", private=True)
    assert mode(tmp_path / "out") == 0o777 & ~umask
    assert mode(tmp_path / "out" / "figures.json") == 0o666 & ~umask
    assert mode(tmp_path / "out" / "scheme.json") == 0o600
