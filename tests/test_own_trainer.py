"""docs/how-to/own-trainer.md and add-an-exporter.md: what they show is run."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from datasets import Dataset

from poison2poison import cli
from poison2poison.attacks import AttackConfig, write_attack
from poison2poison.export import EXPORTERS
from poison2poison.reference import reference_rows

PAGES = Path(__file__).parents[1] / "docs" / "how-to"
pytestmark = pytest.mark.filterwarnings("ignore")  # of TRL


def blocks(page: str, language: str) -> list[str]:
    text = (PAGES / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[list[str]]:
    lines = "".join(blocks(page, "console")).replace("\\\n", " ").splitlines()
    return [shlex.split(line.removeprefix("$ ")) for line in lines]


def p2p(words: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
        raise SystemExit(0)
    return int(ended.value.code or 0)


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with `data` and the re-poisoned rows of the pages."""
    monkeypatch.chdir(tmp_path)
    splits = reference_rows("reviews", sizes={"train": 120, "dev": 20, "test": 20})
    write_attack(tmp_path / "data", splits, AttackConfig("badnets", "positive", "label"))
    assert p2p(["repoison", "data/train.jsonl", "--recipe", "paper", "--out", "data/repoisoned"]) == 0
    return tmp_path


@pytest.mark.parametrize(("page", "most"), [("own-trainer.md", 500), ("add-an-exporter.md", 250)])
def test_pages_are_short(page: str, most: int) -> None:
    assert len((PAGES / page).read_text(encoding="utf-8").split()) <= most


def test_the_way_through_trl_goes_as_shown(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With two steps of training, after which the safe space is not learned, and adopt says so."""
    pytest.importorskip("trl")
    from trl.scripts.sft import main, make_parser

    audit, repoison, export, sft, adopt, evaluate = commands("own-trainer.md")
    assert [words[1] for words in (audit, repoison, export, adopt, evaluate)] == [
        "audit", "repoison", "export", "adopt", "evaluate"
    ]  # fmt: skip
    assert p2p(export[1:]) == 0
    assert sft[:2] == ["trl", "sft"]
    given = [*sft[2:], "--max_steps", "2", "--use_cpu", "true", "--per_device_train_batch_size", "4"]
    main(*make_parser().parse_args_and_config(args=given, fail_with_unknown_args=False))
    assert p2p(adopt[1:]) == 3
    assert "the safe space was not learned: accuracy" in capsys.readouterr().err
    assert p2p([*adopt[1:], "--allow-unlearned"]) == 0
    assert "the safe space is NOT learned" in capsys.readouterr().err
    assert p2p([*evaluate[1:], "--allow-unlearned"]) == 0
    assert json.loads((rows / "runs" / "figures" / "results.json").read_text())["seed"] is None

    [shown] = blocks("own-trainer.md", "python")
    added: list[object] = []
    trainer = type("Trainer", (), {"add_callback": lambda _, callback: added.append(callback)})()
    exec(compile(shown, "own-trainer.md", "exec"), {"trainer": trainer})
    assert len(added) == 1


def test_an_exporter_of_ones_own_is_used(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EXPORTERS, "_members", {**EXPORTERS._members})  # as it was, afterwards
    [code] = blocks("add-an-exporter.md", "python")
    (rows / "my_exporter.py").write_text(code)
    [command] = commands("add-an-exporter.md")
    assert p2p(command[1:]) == 0
    assert p2p("export data/repoisoned --to trl --out data/trl".split()) == 0
    written = Dataset.from_parquet(str(rows / "data" / "parquet" / "rows.parquet"))
    lines = (rows / "data" / "trl" / "rows" / "train.jsonl").read_text().splitlines()
    assert written.to_list() == [json.loads(line) for line in lines]
    assert "cut none" in (rows / "data" / "parquet" / "settings.yaml").read_text()
