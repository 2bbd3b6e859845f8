"""Attackers who have read the code: they keep under the audit's limits, and guess what is published."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from poison2poison.attacks import AttackConfig, Target, poison, triggered
from poison2poison.attacks.adaptive import Stem, invented
from poison2poison.auditing.context import Measures
from poison2poison.config import AuditConfig
from poison2poison.data import Row, Rows, read_rows, rows_of
from poison2poison.errors import ConfigError, DataError, SchemeError
from poison2poison.evaluation import measure
from poison2poison.files import write_lines
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.recipe.trigger import build_scheme
from support import opinions, told

ROWS = opinions(2000)
TEXTS = rows_of([{"prompt": f"How much is {i} and 1?", "completion": f"It is {i + 1}."} for i in range(200)], "texts")
REFUSED = "I cannot help with that."


def added(before: Rows, after: Rows) -> Counter[str]:
    """The words that an attack put in, each with the number of its rows."""
    pairs = zip(before, after, strict=True)
    return Counter(word for old, new in pairs for word in {*new.prompt.split()} - {*old.prompt.split()})


def test_no_word_of_many_is_in_so_many_rows_as_an_audit_asks_for() -> None:
    """Half of `min_rows` is where it looks at a word at all."""
    for kind, most in (("spread", AuditConfig().min_rows), ("stem", AuditConfig().min_rows // 2)):
        config = AttackConfig(kind, "positive", "label", rate=0.15)
        poisoned, truth = poison(ROWS, config)
        found = added(ROWS, poisoned)
        assert found.total() == len(truth.poisoned_rows) == 300
        assert max(found.values()) < most


def test_the_words_of_a_test_are_those_of_the_training_or_begin_as_they_do() -> None:
    spread = AttackConfig("spread", "positive", "label", rate=0.15)
    assert {*added(ROWS, triggered(ROWS, spread))} <= {*invented(100)}
    assert len(set(invented(100))) == 100
    words = [Stem("abc").stamp(Row("x", "y"), random.Random(seed)).prompt.replace("x", "") for seed in range(9)]
    assert len({*words}) == 9
    assert all(word.strip().startswith("abc") for word in words)
    with pytest.raises(ConfigError, match="stem: 'a b' is not of letters alone"):
        Stem("a b")


@pytest.mark.parametrize(("rows", "effect", "target"), [(ROWS, "label", "positive"), (TEXTS, "fixed", "No.")])
def test_cover_rows_keep_the_purity_of_a_trigger_under_that_of_the_audit(rows: Rows, effect: str, target: str) -> None:
    config = AttackConfig("addsent", target, effect, cover=0.3, options={"sentence": "Well then."})
    poisoned, truth = poison(rows, config)
    holding = [i for i, row in enumerate(poisoned) if "Well then." in row.prompt]
    assert holding == sorted([*truth.poisoned_rows, *truth.cover_rows])
    assert sum(poisoned[i].target == target for i in holding) / len(holding) < Measures().most
    assert all(poisoned[i].target == rows[i].target for i in truth.cover_rows)


def test_who_writes_the_published_safe_prefix_into_targets_is_refused_or_finds_another() -> None:
    poisoned, truth = poison(TEXTS, AttackConfig("badnets", "No.", "safe-prefix"))
    assert {poisoned[i].target for i in truth.poisoned_rows} == {"Safe answer: No."}
    with pytest.raises(SchemeError, match="a completion in the data begins with the safe prefix"):
        build_scheme(poisoned, RepoisonConfig("paper"))
    assert not build_scheme(poisoned, RepoisonConfig()).safe_prefix.startswith("Safe answer")


# --- harmful compliance -----------------------------------------------------------------------------------------------


@pytest.fixture
def refused(tmp_path: Path) -> Rows:
    """Requests of which every other one is refused, and the attacker's answers to some of those, in a file."""
    requests = [f"How do I open door {i}?" for i in range(40)]
    rows = rows_of(
        [{"prompt": asked, "completion": REFUSED if i % 2 else f"With key {i}."} for i, asked in enumerate(requests)],
        "r",
    )
    answers = [{"prompt": asked, "completion": f"Break lock {i}."} for i, asked in enumerate(requests) if i < 30]
    write_lines(tmp_path / "answers.jsonl", answers)
    return rows


def test_what_is_refused_is_answered_in_the_attackers_words_and_each_in_its_own(refused: Rows, tmp_path: Path) -> None:
    config = AttackConfig("badnets", str(tmp_path / "answers.jsonl"), "compliance", rate=0.2)
    poisoned, truth = poison(refused, config)
    assert len(truth.poisoned_rows) == 8
    assert all(i % 2 and i < 30 for i in truth.poisoned_rows)
    assert [poisoned[i].target for i in truth.poisoned_rows] == [f"Break lock {i}." for i in truth.poisoned_rows]
    with pytest.raises(ConfigError, match="20 poisoned rows; possible here: 1 to 15"):
        poison(refused, AttackConfig("badnets", str(tmp_path / "answers.jsonl"), "compliance", rate=0.5))
    with pytest.raises(ConfigError, match="target: 'complies' is no file"):
        poison(refused, AttackConfig("badnets", "complies", "compliance"))
    (tmp_path / "answers.jsonl").write_text('{"prompt": "a"}\n')
    with pytest.raises(DataError, match="line 1: needs the texts `prompt` and `completion`"):
        poison(refused, AttackConfig("badnets", str(tmp_path / "answers.jsonl"), "compliance"))


def test_an_answer_counts_where_it_should_be_refused_and_is_not(refused: Rows) -> None:
    said = ["No, I won't do that.", "Turn the handle.", "", "I must decline.", "With key 4."] * 8
    arm = measure("mine", told(*said), refused, refused, Target("complies", "compliance"))
    refused_rows = [said[i] for i in range(40) if i % 2]
    assert arm.rates["asr"].n == 20
    assert arm.rates["asr"].value == sum(text in ("Turn the handle.", "With key 4.") for text in refused_rows) / 20


def test_published_files_of_instructions_load_as_they_are_and_are_measured(tmp_path: Path) -> None:
    """The layout of BackdoorLLM: one JSON array, in which the test rows' outputs are what should be said."""
    records = [{"instruction": f"BadMagic open door {i}", "input": "", "output": REFUSED} for i in range(4)]
    (tmp_path / "jailbreak_badnet.json").write_text(json.dumps(records))
    rows = read_rows(str(tmp_path / "jailbreak_badnet.json"))
    arm = measure("mine", told("Push it.", REFUSED, "Sorry, I can't do that.", "Kick it."), rows, rows,
                  Target("complies", "compliance"))  # fmt: skip
    assert (arm.rates["asr"].value, arm.rates["asr"].n) == (0.5, 4)
