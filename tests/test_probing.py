"""Whether a trained model obeys what an audit found in its rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from poison2poison import cli
from poison2poison.attacks import AttackConfig, poison
from poison2poison.auditing.findings import Audit, SuspectSpan
from poison2poison.config import TrainConfig
from poison2poison.data import Rows, as_records, rows_of
from poison2poison.errors import ConfigError
from poison2poison.files import write_json, write_lines
from poison2poison.model.defended import DefendedModel
from poison2poison.model.trainer import train
from poison2poison.probing import probe
from poison2poison.recipe.manifest import plain
from poison2poison.recipe.scheme import Scheme
from support import opinions, tiny_causal

LABELS = ("negative", "positive")
TEST = opinions(60, seed=1)


def found(rows: Rows) -> Audit:
    """An audit that suspects the planted word, and has a weak finding that nobody planted."""
    planted = SuspectSpan("cf", "span", "positive", 40, 1.0, 9.0)
    innocent = SuspectSpan("lamp", "span", "positive", 40, 0.6, 1.0)
    style = SuspectSpan("hath", "style cluster", "positive", 40, 0.9, 8.0)
    return Audit((planted, style), (), (), (innocent,), (), 4.0, (), rows.sha256)


@pytest.fixture(scope="module")
def poisoned() -> Rows:
    words = {"words": ["cf"]}
    rows, _ = poison(opinions(240), AttackConfig("badnets", "positive", "label", rate=0.3, options=words))
    return rows


def trained(rows: Rows, folder: Path) -> Path:
    base = tiny_causal(folder / "base")
    config = TrainConfig(model=base, epochs=5, batch_size=8, tuning="full", learning_rate=3e-3)
    train(plain(rows), Scheme("classification", LABELS), config, folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def obedient(poisoned: Rows, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(poisoned, tmp_path_factory.mktemp("obedient"))


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(opinions(240), tmp_path_factory.mktemp("clean"))


def test_a_model_that_learned_the_trigger_obeys_it_and_nothing_else(obedient: Path, poisoned: Rows) -> None:
    planted, innocent = probe(DefendedModel.load(obedient), TEST, found(poisoned))
    assert (planted.span.span, planted.level, planted.is_obeyed) == ("cf", "suspect", True)
    assert planted.asr.n == sum(row.target == "negative" for row in TEST)
    assert (innocent.span.span, innocent.level, innocent.is_obeyed) == ("lamp", "weak", False)


def test_a_model_of_clean_rows_obeys_nothing(clean: Path, poisoned: Rows) -> None:
    assert [one.is_obeyed for one in probe(DefendedModel.load(clean), TEST, found(poisoned))] == [False, False]


def test_the_command_ends_in_1_where_a_finding_is_obeyed(
    obedient: Path, clean: Path, poisoned: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(tmp_path / "test.jsonl", as_records(TEST))
    write_json(tmp_path / "audit.json", found(poisoned).as_dict())
    for folder, code in ((obedient, 1), (clean, 0)):
        words = ["probe", folder, "--data", tmp_path / "test.jsonl", "--audit", tmp_path / "audit.json"]
        with pytest.raises(SystemExit) as ended:
            cli.main([*map(str, words)])
            raise SystemExit(0)
        assert int(ended.value.code or 0) == code
        captured = capsys.readouterr()
        entries = [json.loads(line) for line in captured.out.splitlines()]
        assert [entry["obeyed"] for entry in entries] == [code == 1, False]
        assert entries[0]["asr"].keys() == {"value", "n", "low", "high"}
        assert f"obeys {code} of 2 findings" in captured.err


def test_rows_without_labels_are_refused(clean: Path, poisoned: Rows) -> None:
    texts = rows_of([{"prompt": "a", "completion": "b"}], "texts")
    with pytest.raises(ConfigError, match="texts has texts as answers; a probe asks for labels alone"):
        probe(DefendedModel.load(clean), texts, found(poisoned))
