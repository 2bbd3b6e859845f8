from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from poison2poison.errors import OutputError
from poison2poison.files import locked, whole_folder, write_text


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


def test_a_second_process_in_one_folder_is_refused_and_a_killed_one_blocks_nobody(tmp_path: Path) -> None:
    hold = "import sys, time; from pathlib import Path; from poison2poison.files import locked\n"
    hold += "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)"
    command = [sys.executable, "-c", hold, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(OutputError, match=r"out: another process is at work there"), locked(tmp_path / "out"):
            pass
        first.kill()
    with locked(tmp_path / "out"), locked(tmp_path / "out" / "arm"):
        assert (tmp_path / "out").is_dir()
    assert [path.name for path in tmp_path.rglob("*")] == ["out"]


def test_what_a_killed_process_left_half_made_is_swept_away_and_nothing_else(tmp_path: Path) -> None:
    for name in (".out.0123456789abcdef", ".out.notes", ".other.0123456789abcdef", "out"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("half")
    with locked(tmp_path / "out"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {".out.notes", ".other.0123456789abcdef", "out"}
