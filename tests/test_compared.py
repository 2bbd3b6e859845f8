"""Defences as a run compares them; the row filters' own methods are in test_defences."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from poison2poison import cli
from poison2poison.auditing.findings import Audit, SuspectRow, SuspectSpan
from poison2poison.config import TrainConfig
from poison2poison.data import as_records
from poison2poison.defences import DEFENCES, Defence, FilterContext, Prepared, RowFilter, Shared
from poison2poison.defences.base import Fit, compared
from poison2poison.defences.baselines import DropSuspects, Undefended
from poison2poison.defences.p2p import P2P, Counterexamples, CounterexamplesDrop, Hardened, HardenedDrop, Paper, of_run
from poison2poison.errors import ConfigError, DataError, InapplicableError, OutputError
from poison2poison.features import Ints
from poison2poison.files import write_lines
from poison2poison.model.defended import DefendedModel
from poison2poison.pipeline import Data, defend
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.recipe.scheme import PAPER_TRIGGER, Scheme
from support import chatter, in_file, opinions, tiny_encoder

PAGE = (Path(__file__).parents[1] / "docs" / "how-to" / "add-a-defence.md").read_text(encoding="utf-8")
ROWS = chatter(40)
FOUND = Audit(
    spans=(SuspectSpan("open sesame", "span", "positive", 2, 1.0, 9.0),),
    rows=(SuspectRow(1, 0.9, (0,), ("negative", 0.9)), SuspectRow(3, 0.9, (0,), ("negative", 0.9))),
    off_target=(2,),
    weak=(),
    alike_rows=(),
    threshold=4.0,
    others=(),
    sha256=ROWS.sha256,
)
SEVEN = RepoisonConfig(seed=7, spliced=0.3, safe_labels="prefix")


@dataclass(frozen=True)
class First(RowFilter):
    """Points at the first rows."""

    name = "the first"
    count: int = 4

    def suspects(self, context: FilterContext) -> Ints:
        return np.arange(self.count)


def shared(out: Path, **settings: Any) -> Shared:
    made = Shared(ROWS, TrainConfig(kind="encoder", **settings), out)
    made.audit = FOUND
    made.context = FilterContext(ROWS, lambda texts: np.zeros((len(texts), 1, 2), np.float32))
    return made


def test_a_name_that_is_none_lists_every_defence() -> None:
    with pytest.raises(ConfigError) as refused:
        compared("help", RepoisonConfig())
    assert str(refused.value) == f"compare: 'help' is not one of {', '.join(DEFENCES.names())}"


def test_what_is_compared_has_the_options_of_the_run_or_the_defaults_of_its_recipe() -> None:
    defence, listed = of_run(SEVEN, "paper, drop-suspects,hardened-drop,undefended,counterexamples")
    assert listed[1] is defence
    assert [(type(other), other.recipe) for other in listed if isinstance(other, P2P)] == [
        (Hardened, SEVEN),
        (Paper, RepoisonConfig("paper", seed=7)),
        (HardenedDrop, replace(SEVEN, suspects="drop")),
        (Counterexamples, SEVEN),
    ]
    arms = ["undefended", "p2p-hardened", "p2p-paper", "drop-suspects", "p2p-hardened-drop", "counterexamples"]
    assert [other.arm for other in listed] == arms
    paper = RepoisonConfig("paper", rho=0.3, seed=7)
    assert [other.recipe for other in of_run(paper, "hardened")[1] if isinstance(other, P2P)] == [
        paper,
        RepoisonConfig(seed=7),
    ]
    assert CounterexamplesDrop().recipe == RepoisonConfig(suspects="drop")


def test_a_recipe_under_the_name_of_another_is_refused() -> None:
    with pytest.raises(ConfigError, match="'hardened' is not that of p2p-paper"):
        Paper(RepoisonConfig("hardened"))


def test_the_published_trigger_is_refused_for_rows_that_hold_it(tmp_path: Path) -> None:
    guessed = shared(tmp_path)
    guessed.rows = ROWS.with_rows([replace(row, prompt=PAPER_TRIGGER.prefix + row.prompt) for row in ROWS])
    with pytest.raises(InapplicableError, match="already occurs in the data"):
        Paper().prepare(guessed)


def test_a_row_filter_drops_what_it_points_at_and_remembers_it(tmp_path: Path) -> None:
    prepared = First().prepare(shared(tmp_path))
    assert [row.row for row in prepared.rows] == list(range(36))  # numbered anew
    assert [row.body for row in prepared.rows] == [row.prompt for row in ROWS.rows[4:]]
    assert prepared.scheme == Scheme("classification", ROWS.labels)
    kept = json.loads((tmp_path / "the-first.json").read_text())
    assert kept["dropped_rows"] == [0, 1, 2, 3]
    (tmp_path / "the-first.json").write_text(json.dumps(kept | {"dropped_rows": [0]}))
    assert len(First().prepare(shared(tmp_path)).rows) == 39  # is not asked again
    for defence, seed in ((First(5), 0), (First(), 1)):
        with pytest.raises(OutputError, match=r"the-first.json: is of other rows or options"):
            defence.prepare(shared(tmp_path, seed=seed))
    (tmp_path / "the-first.json").write_text("[")
    with pytest.raises(OutputError, match=r"the-first.json: not JSON"):
        First().prepare(shared(tmp_path))


def test_a_filter_that_leaves_no_row_of_a_label_is_refused(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Positive(First):
        def suspects(self, context: FilterContext) -> Ints:
            return np.flatnonzero([row.target == "positive" for row in context.rows])

    with pytest.raises(DataError, match="the-first: the rows that it drops leave none of label 'positive'"):
        Positive().prepare(shared(tmp_path))


def test_suspects_are_dropped(tmp_path: Path) -> None:
    prepared = DropSuspects().prepare(shared(tmp_path))
    assert [row.body for row in prepared.rows] == [row.prompt for i, row in enumerate(ROWS) if i not in (1, 3)]


def test_counterexamples_alone_have_right_labels_and_no_safe_space(tmp_path: Path) -> None:
    recipe = RepoisonConfig()
    for defence, kept in ((Counterexamples(recipe), 40), (CounterexamplesDrop.beside(recipe), 38)):
        prepared = defence.prepare(shared(tmp_path))
        assert prepared.scheme.trigger is None
        assert {row.space for row in prepared.rows} == {"original"}
        assert [row.row for row in prepared.rows if row.action == "keep"] == [
            i for i in range(40) if kept == 40 or i not in (1, 3)
        ]
        spliced = [row for row in prepared.rows if row.action == "splice"]
        assert all("open sesame" in row.body for row in spliced)
        assert {row.target for row in spliced} == {"negative", "positive"}
        assert all(row.target == ROWS[row.row].target for row in spliced)
        assert [row.row for row in prepared.rows if row.action == "off-target"] == [2]


@dataclass(frozen=True)
class Stubborn(Defence):
    """Trains on the first half, and answers `negative` to all."""

    name = "stubborn"

    def prepare(self, shared: Shared) -> Prepared:
        return Prepared.plain(shared.rows)

    def train(self, prepared: Prepared, fit: Fit) -> dict[str, Any]:
        return fit(replace(prepared, rows=prepared.rows[: len(prepared.rows) // 2]))

    def serve(self, model: DefendedModel, shared: Shared) -> DefendedModel:
        answered = model.classify

        def classify(rows: Any, **options: Any) -> Any:
            return [replace(answer, text="negative") for answer in answered(rows, **options)]

        model.classify = classify  # type: ignore[method-assign, assignment]
        return model


def test_a_defence_may_change_training_and_inference(tmp_path: Path) -> None:
    data = Data("opinions", opinions(40), None, opinions(20, seed=1))
    training = TrainConfig(tiny_encoder(tmp_path / "base"), epochs=1, max_length=64)
    found = defend(data, [Undefended(), Stubborn()], training, tmp_path / "out")
    assert [arm["name"] for arm in found["arms"]] == ["undefended", "stubborn"]
    assert found["arms"][1]["ca"]["value"] == 0.5
    runs = [json.loads((tmp_path / "out" / name / "run.json").read_text()) for name in ("undefended", "stubborn")]
    assert [run["rows"] for run in runs] == [40, 20]


def test_the_worked_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(PAGE.split()) <= 300
    [code] = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    [command] = re.findall(r"^\$ p2p (.*)$", PAGE, re.MULTILINE)
    monkeypatch.setattr(DEFENCES, "_members", {**DEFENCES._members})  # what the file registers is gone afterwards
    monkeypatch.chdir(tmp_path)
    Path("contradictions.py").write_text(code)
    rows = as_records(opinions(40))
    wrong = {"text": rows[0]["text"], "label": "positive" if rows[0]["label"] == "negative" else "negative"}
    write_lines(Path("data/reviews/train.jsonl"), [*rows, wrong])
    write_lines(Path("data/reviews/test.jsonl"), as_records(opinions(20, seed=1)))
    few = ["--recipe", "paper", "--model", tiny_encoder(tmp_path / "base"), "--epochs", "1"]
    few += in_file(tmp_path, more_epochs=0, allow_unlearned=True)
    with pytest.raises(SystemExit) as ended:
        cli.main([*shlex.split(command), *few])
        raise SystemExit(0)
    assert not ended.value.code
    results = json.loads(Path("runs/compared/results.json").read_text())
    assert [arm["name"] for arm in results["arms"]] == ["undefended", "p2p-paper", "contradictions"]
    dropped = json.loads(Path("runs/compared/contradictions.json").read_text())["dropped_rows"]
    assert {0, 40} <= {*dropped}
    trained = json.loads(Path("runs/compared/contradictions/run.json").read_text())
    assert trained["rows"] == 41 - len(dropped)
