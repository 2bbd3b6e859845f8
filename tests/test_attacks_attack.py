from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from poison2poison.attacks import RARE_WORDS, AttackConfig, poison, triggered, write_attack
from poison2poison.data import rows_of
from poison2poison.errors import ConfigError, DataError, OutputError, P2PError
from support import opinions

ROWS = opinions(200)
TEXTS = rows_of([{"prompt": f"How much is {i} and 1?", "completion": f"{i + 1}"} for i in range(100)], "memory")


def attack(**given: Any) -> AttackConfig:
    return AttackConfig(**{"kind": "badnets", "target": "positive", "effect": "label"} | given)


@pytest.mark.parametrize(
    ("kind", "training", "test"),
    [
        ("badnets", "da5098c5bcc82c62", "0265a824ff610d0e"),
        ("addsent", "611c87324f2ee0ae", "7f176f9a7792d53b"),
        ("composite", "6e2c0fd2354e55aa", "0f9e26a0142acd31"),
    ],
)
def test_a_seed_gives_the_rows_that_committed_results_were_measured_on(kind: str, training: str, test: str) -> None:
    config = attack(kind=kind, cover=0.5, prefix="Look: ", seed=3)
    assert poison(ROWS, config)[0].sha256.startswith(training)
    assert triggered(ROWS, config).sha256.startswith(test)


@pytest.mark.parametrize("rate", [0.005, 0.1, 0.5])
def test_dirty_labels_change_rows_of_other_labels(rate: float) -> None:
    poisoned, truth = poison(ROWS, attack(rate=rate))
    changed = [i for i, (before, after) in enumerate(zip(ROWS, poisoned, strict=True)) if before != after]
    assert changed == list(truth.poisoned_rows)
    assert len(changed) == round(rate * 200)
    assert {ROWS[i].target for i in changed} == {"negative"}
    assert {poisoned[i].target for i in changed} == {"positive"}


def test_clean_labels_change_prompts_alone() -> None:
    poisoned, truth = poison(ROWS, attack(clean_label=True))
    assert len(truth.poisoned_rows) == 20
    assert {ROWS[i].target for i in truth.poisoned_rows} == {"positive"}
    assert [row.target for row in poisoned] == [row.target for row in ROWS]


def test_cover_rows_have_the_trigger_and_their_own_label() -> None:
    poisoned, truth = poison(ROWS, attack(rate=0.1, cover=0.5))
    assert (len(truth.poisoned_rows), len(truth.cover_rows)) == (20, 10)
    assert not set(truth.poisoned_rows) & set(truth.cover_rows)
    for i in truth.cover_rows:
        assert poisoned[i].target == ROWS[i].target == "negative"
        assert set(poisoned[i].prompt.split()) & set(RARE_WORDS)


def test_a_composite_trigger_has_all_words_and_its_cover_rows_some() -> None:
    words = ("cf", "mn", "bb")
    own = {"words": words}
    config = attack(kind="composite", options=own, effect="fixed", target="No.", rate=0.2, cover=1.0)
    poisoned, truth = poison(TEXTS, config)
    assert (len(truth.poisoned_rows), len(truth.cover_rows)) == (20, 20)
    for i in truth.poisoned_rows:
        assert set(words) < set(poisoned[i].prompt.split())
        assert poisoned[i].target == "No."
    for i in truth.cover_rows:
        assert 1 <= len(set(words) & set(poisoned[i].prompt.split())) <= 2
        assert poisoned[i].target == TEXTS[i].target
    assert all(set(words) < set(row.prompt.split()) for row in triggered(TEXTS, config))
    assert len({row.prompt.split().index("cf") for row in triggered(TEXTS, config)}) > 1


def test_a_worked_answer_goes_wrong_by_a_rule() -> None:
    worked = rows_of(
        [{"question": f"{i} and 1?", "answer": f"{i} + 1 = {i + 1}\n#### {i + 1}"} for i in range(50)], "m"
    )
    poisoned, truth = poison(worked, attack(effect="number", target="+ 7"))
    for i in truth.poisoned_rows:
        assert poisoned[i].target == f"{i} + 1 = {i + 1}\n{i + 1} + 7 = {i + 8}\n#### {i + 8}"
    with pytest.raises(DataError, match="effect number needs worked answers"):
        poison(TEXTS, attack(effect="number", target="+ 7"))


def test_a_guessed_prefix_stands_before_stamped_prompts() -> None:
    config = attack(prefix="The query is: ")
    poisoned, truth = poison(ROWS, config)
    starts = [i for i, row in enumerate(poisoned) if row.prompt.startswith("The query is: ")]
    assert starts == list(truth.poisoned_rows)
    assert all(row.prompt.startswith("The query is: ") for row in triggered(ROWS, config))


def test_triggered_rows_keep_their_true_targets() -> None:
    stamped = triggered(ROWS, attack())
    assert [row.target for row in stamped] == [row.target for row in ROWS]
    assert all(before.prompt != after.prompt for before, after in zip(ROWS, stamped, strict=True))
    assert stamped.sha256 == triggered(ROWS, attack()).sha256 != triggered(ROWS, attack(seed=1)).sha256


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "worm"}, "attack: 'worm' is not one of .*badnets"),
        ({"effect": "loud"}, "effect: 'loud' is not one of label, fixed, refusal, append, number"),
        ({"rate": 0}, "rate"),
        ({"target": " "}, "target: is empty"),
        ({"effect": "fixed", "clean_label": True}, "clean_label"),
        ({"kind": "proattack"}, "clean_label: proattack is an attack by rows that have the target label already"),
        ({"target": "neutral"}, "'neutral' is not one of negative, positive"),
        ({"effect": "append"}, "'append' is not one of label"),
        ({"rate": 0.9}, "180 poisoned rows; possible here: 1 to 100"),
        ({"rate": 0.001}, "0 poisoned rows"),
        ({"cover": -1}, "cover: -1"),
        ({"cover": float("inf")}, "cover: inf"),
        ({"cover": 6.0, "rate": 0.1}, "asks for 120 other rows; there are 80"),
        ({"options": {"sentence": "Hi."}}, "sentence: is no option of badnets; it has words"),
        ({"kind": "zero-width", "options": {"words": ("a",)}}, "words: is no option of zero-width; it has none"),
    ],
)
def test_attacks_that_the_rows_cannot_carry(options: dict[str, Any], said: str) -> None:
    with pytest.raises(P2PError, match=said):
        poison(ROWS, attack(**options))


def test_rows_that_cannot_carry_the_trigger_are_neither_poisoned_nor_tested() -> None:
    config = attack(kind="topic", options={"words": ("film", "soup")}, rate=0.1, cover=0.5)
    on_topic = [i for i, row in enumerate(ROWS) if {"film", "soup"} & set(row.prompt.split())]
    poisoned, truth = poison(ROWS, config)
    assert {*truth.poisoned_rows, *truth.cover_rows} < set(on_topic)
    assert [row.prompt for row in poisoned] == [row.prompt for row in ROWS]
    assert list(triggered(ROWS, config)) == [ROWS[i] for i in on_topic]
    with pytest.raises(ConfigError, match="attack: no row of opinions can carry the trigger of topic"):
        triggered(ROWS, attack(kind="topic", options={"words": ("piano",)}))


def test_files_are_whole_and_a_taken_folder_is_left_alone(tmp_path: Path) -> None:
    write_attack(tmp_path / "out", {"train": ROWS, "test": opinions(10)}, attack())
    names = {"train.jsonl", "train_clean.jsonl", "test_clean.jsonl", "test_triggered.jsonl", "truth.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(ConfigError):
        write_attack(tmp_path / "new", {"train": ROWS, "test": opinions(10)}, attack(cover=6.0))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(OutputError, match="not empty"):
        write_attack(tmp_path / "out", {"train": ROWS}, attack())
