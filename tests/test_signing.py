"""Signatures of artifacts with a key of one's own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from poison2poison import cli
from poison2poison.config import TrainConfig
from poison2poison.evaluation import describe
from poison2poison.model.run import Run
from poison2poison.recipe.manifest import plain
from poison2poison.recipe.scheme import PAPER_TRIGGER, Scheme
from support import opinions

pytest.importorskip("model_signing", reason="the extra `records` is not installed")
if shutil.which("openssl") is None:
    pytest.skip("there is no openssl to make keys with", allow_module_level=True)
P2P = Callable[..., tuple[int, str]]


@pytest.fixture
def p2p(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> P2P:
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main([*map(str, arguments)])
            raise SystemExit(0)
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out + captured.err

    return run


def key_pair(folder: Path, *kind: str) -> tuple[Path, Path]:
    """A private and a public key."""
    folder.mkdir()
    private, public = folder / "private.pem", folder / "public.pem"
    kind = kind or ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
    subprocess.run(["openssl", "genpkey", *kind, "-out", private], check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True, capture_output=True)
    return private, public


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return key_pair(tmp_path / "keys")


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """A folder as a training leaves it, with records inside."""
    rows, out = opinions(20), tmp_path / "run"
    scheme = Scheme("classification", ("negative", "positive"), PAPER_TRIGGER)
    run = Run.of(plain(rows), scheme, TrainConfig(epochs=1), out, None)
    run.begin(plain(rows), scheme)
    for folder in ("model", "records"):
        (out / folder).mkdir()
        (out / folder / "README.md").write_text("a card")
    (out / "model" / "adapter_model.safetensors").write_bytes(bytes(100))
    run.end({"data": describe(train=rows)}, "done")
    return out


@pytest.fixture
def signed(artifact: Path, keys: tuple[Path, Path], p2p: P2P) -> Path:
    code, said = p2p("sign", artifact, "--key", keys[0])
    assert code == 0, said
    return artifact


def test_what_nobody_touched_is_as_it_was_signed(signed: Path, keys: tuple[Path, Path], p2p: P2P) -> None:
    code, said = p2p("verify", signed, "--key", keys[1])
    assert code == 0
    assert "model.sig" in said
    shutil.move(signed, signed.parent / "elsewhere")
    assert p2p("verify", signed.parent / "elsewhere", "--key", keys[1])[0] == 0


@pytest.mark.parametrize(
    "file", ["model/adapter_model.safetensors", "model/README.md", "records/README.md", "scheme.json", "manifest.jsonl"]
)
def test_one_changed_byte_of_any_file_fails_and_names_it(
    file: str, signed: Path, keys: tuple[Path, Path], p2p: P2P
) -> None:
    content = bytearray((signed / file).read_bytes())
    content[-1] ^= 1
    (signed / file).write_bytes(content)
    code, said = p2p("verify", signed, "--key", keys[1])
    assert code == 1
    line = [line for line in said.splitlines() if "signature" in line and file in line]
    assert len(line) == 1
    assert "differs" in line[0]


def test_a_change_that_the_record_follows_is_found_by_the_signature_alone(
    signed: Path, keys: tuple[Path, Path], p2p: P2P
) -> None:
    weights = signed / "model" / "adapter_model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(b"others")
    from poison2poison.files import hashes

    record = (signed / "run.json").read_text()
    now = hashes(signed, ["model"])["model/adapter_model.safetensors"]
    weights.write_bytes(before)
    recorded = hashes(signed, ["model"])["model/adapter_model.safetensors"]
    weights.write_bytes(b"others")
    assert recorded in record
    (signed / "run.json").write_text(record.replace(recorded, now))
    assert p2p("verify", signed)[0] == 0
    code, said = p2p("verify", signed, "--key", keys[1])
    assert code == 1
    assert "run.json" in said


@pytest.mark.parametrize("change", ["missing", "added"])
def test_a_file_more_or_less_fails(change: str, signed: Path, keys: tuple[Path, Path], p2p: P2P) -> None:
    if change == "missing":
        (signed / "records" / "README.md").unlink()
    else:
        (signed / "records" / "more.md").write_text("more")
    code, said = p2p("verify", signed, "--key", keys[1])
    assert code == 1
    assert change in said


def test_a_signature_of_somebody_else_or_none_or_a_broken_one_fails(
    signed: Path, keys: tuple[Path, Path], p2p: P2P, tmp_path: Path
) -> None:
    assert p2p("verify", signed, "--key", key_pair(tmp_path / "others")[1])[0] == 1
    for content in ("", "{}", "[]", "\0"):
        (signed / "model.sig").write_text(content)
        assert p2p("verify", signed, "--key", keys[1])[0] == 1
    (signed / "model.sig").unlink()
    code, said = p2p("verify", signed, "--key", keys[1])
    assert code == 1
    assert "missing" in said


def test_the_library_s_own_tool_checks_it_too(signed: Path, keys: tuple[Path, Path]) -> None:
    from model_signing import verifying

    verifier = verifying.Config().use_elliptic_key_verifier(public_key=keys[1])
    verifier.verify(signed, signed / "model.sig")
    (signed / "scheme.json").write_text("{}")
    with pytest.raises(ValueError, match=r"scheme\.json"):
        verifier.verify(signed, signed / "model.sig")


def test_what_differs_from_its_record_is_not_signed(artifact: Path, keys: tuple[Path, Path], p2p: P2P) -> None:
    (artifact / "model" / "adapter_model.safetensors").write_text("others")
    code, said = p2p("sign", artifact, "--key", keys[0])
    assert code == 2
    assert "model/adapter_model.safetensors" in said
    assert not (artifact / "model.sig").exists()


def test_a_link_is_not_signed(artifact: Path, keys: tuple[Path, Path], p2p: P2P) -> None:
    (artifact / "records" / "link").symlink_to(artifact / "run.json")
    code, said = p2p("sign", artifact, "--key", keys[0])
    assert code == 2
    assert "cannot be signed" in said


def test_a_key_that_cannot_sign_is_refused(artifact: Path, keys: tuple[Path, Path], p2p: P2P, tmp_path: Path) -> None:
    other, _ = key_pair(tmp_path / "ed", "-algorithm", "ed25519")
    for key in (other, keys[1], tmp_path / "none.pem", artifact / "run.json"):
        code, said = p2p("sign", artifact, "--key", key)
        assert code == 2
        assert f"key: {key} cannot be used" in said
    assert p2p("verify", artifact, "--key", other)[0] == 2
