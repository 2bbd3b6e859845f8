"""The README's commands and its Python do what it shows."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

import poison2poison as p2p
from poison2poison import cli
from poison2poison.attacks import AttackConfig, write_attack
from poison2poison.config import TrainConfig
from support import opinions, tiny_encoder

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TABLE = re.compile(r"^\|.*\|\n\|[-| :]+\|\n((?:\|.*\|\n)+)", re.MULTILINE)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def shown() -> list[tuple[list[str], str]]:
    """The commands and the output that stands under each."""
    parts = re.split(r"^\$ ", "".join(blocks("console")), flags=re.MULTILINE)[1:]
    return [(shlex.split(command, comments=True), output) for command, _, output in (p.partition("\n") for p in parts)]


def output_of(command: str) -> str:
    return next(output for words, output in shown() if words[:2] == command.split())


def run(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a `p2p` command prints."""
    assert command[0] == "p2p"
    with pytest.raises(SystemExit) as ended:
        cli.main(command[1:])
        raise SystemExit(0)
    said = capsys.readouterr()
    assert not ended.value.code, said.err
    return said.out + said.err


def test_it_is_short_and_what_it_links_to_is_there() -> None:
    assert len(README.split()) <= 700
    assert all(len(rows.splitlines()) <= 7 for rows in TABLE.findall(README))
    linked = [target for target in re.findall(r"\]\(([^)]+)\)", README) if "://" not in target]
    assert linked
    assert [target for target in linked if not (ROOT / target).exists()] == []


def test_an_attack_prints_what_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    [attack] = [command for command, _ in shown() if command[:2] == ["p2p", "attack"]]
    assert run(attack, capsys) == output_of("p2p attack")


def test_commands_and_python_run_on_few_rows_and_a_tiny_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = TrainConfig(tiny_encoder(tmp_path / "tiny"), epochs=8, learning_rate=3e-3, batch_size=8)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(p2p, "TrainConfig", lambda model: tiny)
    splits = {"train": opinions(240), "dev": opinions(40, seed=1), "test": opinions(40, seed=2)}
    write_attack(Path("data/reviews"), splits, AttackConfig("badnets", "positive", "label"))  # of the first command
    [audit] = [words for words, _ in shown() if words[:2] == ["p2p", "audit"]]
    assert run(audit, capsys).splitlines()[-1] == output_of("p2p audit").splitlines()[-1]

    [python] = blocks("python")
    assert len(python.splitlines()) == 8
    for _ in range(2):
        exec(compile(python, "README.md", "exec"), {})
        answer = capsys.readouterr().out
        assert answer.splitlines()[-1].startswith("Answer(text=")

    [predict] = [words for words, _ in shown() if words[:2] == ["p2p", "predict"]]
    shutil.copytree("runs/mine/p2p-hardened", predict[2])  # where the demo would have left one
    assert run(predict, capsys).startswith('{"answer": ')


@pytest.mark.slow
def test_the_demo_prints_what_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    printed = run(["p2p", "demo"], capsys)
    for line in output_of("scripts/demo").splitlines():
        named = re.split(r"[\d.\[\]+%-]+", line)[0].strip(" …")  # the figures differ by the benign trigger's draw
        assert named in printed
    [predict] = [words for words, _ in shown() if words[:2] == ["p2p", "predict"]]
    assert '"where": "safe"' in run(predict, capsys)
