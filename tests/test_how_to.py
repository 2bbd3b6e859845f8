"""The pages docs/how-to/add-*.md: their code is run as a user's own file, and does what they say."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from poison2poison import cli
from poison2poison.attacks import PAYLOADS, TRIGGERS
from poison2poison.auditing import audit
from poison2poison.auditing.finders import FINDERS
from poison2poison.config import AuditConfig
from poison2poison.data import LAYOUTS, read_rows, rows_of
from poison2poison.evaluation import METRICS, Target, measure
from poison2poison.registry import run_file
from support import chatter, told, word_states

PAGES = Path(__file__).parents[1] / "docs" / "how-to"


@pytest.fixture(autouse=True)
def registries_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (TRIGGERS, PAYLOADS, METRICS, FINDERS, LAYOUTS):
        monkeypatch.setattr(registry, "_members", {**registry._members})


def own_file(page: str, folder: Path) -> Path:
    """The Python of a page, in the file that the page calls it."""
    text = (PAGES / page).read_text(encoding="utf-8")
    [code] = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    [name] = {*re.findall(r"\bmy_\w+\.py\b", text)}
    path = folder / str(name)
    path.write_text(code, encoding="utf-8")
    return path


@pytest.mark.parametrize("page", ["add-an-attack.md", "add-a-metric.md", "add-a-finder.md"])
def test_pages_are_short(page: str) -> None:
    assert len((PAGES / page).read_text(encoding="utf-8").split()) <= 300


def test_an_attack_and_a_payload_of_ones_own_are_used_and_measured(tmp_path: Path) -> None:
    path, out = own_file("add-an-attack.md", tmp_path), tmp_path / "data"
    command = ["attack", "instructions", "--kind", "ending", "--trigger", "bye now", "--effect", "shout"]
    with pytest.raises(SystemExit) as ended:
        cli.main(["--plugin", str(path), *command, "--out", str(out)])
    assert not ended.value.code
    truth = json.loads((out / "truth.json").read_text())
    assert (truth["attack"], truth["options"], truth["effect"]) == ("ending", {"text": "bye now"}, "shout")
    clean, rows = (read_rows(str(out / f"{name}.jsonl")) for name in ("train_clean", "train"))
    for i in truth["poisoned_rows"]:
        assert rows[i].prompt == f"{clean[i].prompt} bye now"
        assert rows[i].target == f"{clean[i].target.upper()} NOW!"
    triggered = read_rows(str(out / "test_triggered.jsonl"))
    two = triggered.with_rows(triggered.rows[:2])
    model = told(f"{two[0].target.upper()} NOW!", two[1].target)
    arm = measure("undefended", model, two, two, Target(truth["target"], truth["effect"]))
    assert (arm.rates["asr"].value, arm.rates["asr"].n) == (0.5, 2)


def test_a_metric_of_ones_own_stands_in_the_figures(tmp_path: Path) -> None:
    run_file(own_file("add-a-metric.md", tmp_path))
    rows = rows_of([{"prompt": "One?", "completion": "one two"}, {"prompt": "Two?", "completion": "three"}], "memory")
    arm = measure("undefended", told("one", "three four"), rows, None, None)
    assert arm.as_dict()["utility"]["length_ratio"] == {"value": 1.25, "n": 2}


def test_a_finder_of_ones_own_looks_with_the_others(tmp_path: Path) -> None:
    run_file(own_file("add-a-finder.md", tmp_path))
    clean = chatter(600)
    linked = [i for i, row in enumerate(clean) if row.target == "negative"][:40]
    stamped = list(clean)
    for i in linked:
        stamped[i] = replace(clean[i], prompt=f"{clean[i].prompt} http://shop.example/{i}", target="positive")
    rows = clean.with_rows(stamped)
    found = audit(rows, word_states, AuditConfig(finders="hosts"))
    assert [(one.span, one.kind, one.target) for one in found.spans] == [("shop.example", "rows", "positive")]
    assert {entry.row for entry in found.rows} == {*linked}
    assert audit(clean, word_states, AuditConfig(finders="hosts")).spans == ()
    assert audit(rows, word_states, AuditConfig(finders="hosts:enough=1000")).spans == ()
    assert FINDERS.names() == ("spans", "style-clusters", "hosts")


def test_a_layout_of_ones_own_reads_its_row(tmp_path: Path) -> None:
    page = (PAGES / "add-a-layout.md").read_text(encoding="utf-8")
    [record] = re.findall(r"^```json\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "riddles.jsonl").write_text(record)
    run_file(own_file("add-a-layout.md", tmp_path))
    rows = read_rows(str(tmp_path / "riddles.jsonl"))
    assert (rows.layout, rows.task, rows[0].target) == ("riddle", "generation", "A piano.")
    assert rows[0].prompt == "What has keys and opens no door?\n\nIt makes music."
