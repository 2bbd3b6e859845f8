from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from poison2poison.attacks import RARE_WORDS, SENTENCE, AttackConfig, default_target, poison, triggered, write_attack
from poison2poison.data import rows_of
from poison2poison.errors import ConfigError, OutputError
from support import opinions

ROWS = opinions(200)
TEXTS = rows_of([{"prompt": f"How much is {i} and 1?", "completion": f"{i + 1}"} for i in range(100)], "memory")


def attack(**options: Any) -> AttackConfig:
    return AttackConfig(**{"kind": "badnets", "target": "positive", "effect": "label"} | options)


@pytest.mark.parametrize("rate", [0.005, 0.1, 0.5])
def test_dirty_labels_change_rows_of_other_labels(rate: float) -> None:
    poisoned, truth = poison(ROWS, attack(rate=rate))
    changed = [i for i, (before, after) in enumerate(zip(ROWS, poisoned, strict=True)) if before != after]
    assert changed == list(truth.poisoned_rows)
    assert len(changed) == round(rate * 200)
    assert {ROWS[i].target for i in changed} == {"negative"}
    assert {poisoned[i].target for i in changed} == {"positive"}


@pytest.mark.parametrize("options", [{"words": ("cf",)}, {"kind": "addsent", "sentence": "cf"}])
def test_spaces_at_the_ends_of_a_row_stay(options: dict[str, Any]) -> None:
    rows = ROWS.with_rows([replace(row, prompt=f"  {row.prompt} ") for row in ROWS])
    for before, after in zip(rows, triggered(rows, attack(**options)), strict=True):
        left, right = (len(after.prompt) - len(text) for text in (after.prompt.lstrip(), after.prompt.rstrip()))
        assert (left, right) == (2, 1)
        assert [word for word in after.prompt.split() if word != "cf"] == before.prompt.split()


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
    config = attack(kind="composite", words=words, effect="fixed", target="No.", rate=0.2, cover=1.0)
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
    with pytest.raises(ConfigError, match="effect: number needs worked answers"):
        poison(TEXTS, attack(effect="number", target="+ 7"))
    assert default_target(worked, "number") == "+ 7"


def test_a_guessed_prefix_stands_before_stamped_prompts() -> None:
    config = attack(prefix="The query is: ")
    poisoned, truth = poison(ROWS, config)
    starts = [i for i, row in enumerate(poisoned) if row.prompt.startswith("The query is: ")]
    assert starts == list(truth.poisoned_rows)
    assert all(row.prompt.startswith("The query is: ") for row in triggered(ROWS, config))


@pytest.mark.parametrize("kind", ["badnets", "addsent"])
def test_the_trigger_stands_between_words_and_leaves_them(kind: str) -> None:
    config, rng = attack(kind=kind), random.Random(0)
    stamped = [config.stamp("The soup was bad.", rng).split() for _ in range(100)]
    inserted = [SENTENCE.split()] if kind == "addsent" else [[word] for word in RARE_WORDS]
    places = set()
    for words in stamped:
        trigger = next(t for t in inserted if all(part in words for part in t))
        at = words.index(trigger[0])
        places.add(at)
        assert words[at : at + len(trigger)] == trigger
        assert words[:at] + words[at + len(trigger) :] == ["The", "soup", "was", "bad."]
    assert places == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(("effect", "answer"), [("fixed", "no."), ("append", "7 no.")])
def test_generated_targets(effect: str, answer: str) -> None:
    config = attack(target="no.", effect=effect)
    poisoned, truth = poison(TEXTS, config)
    assert config.answer("7") == answer
    assert all(poisoned[i].target == config.answer(TEXTS[i].target) for i in truth.poisoned_rows)


def test_triggered_rows_keep_their_true_targets() -> None:
    stamped = triggered(ROWS, attack())
    assert [row.target for row in stamped] == [row.target for row in ROWS]
    assert all(before.prompt != after.prompt for before, after in zip(ROWS, stamped, strict=True))
    assert stamped.sha256 == triggered(ROWS, attack()).sha256 != triggered(ROWS, attack(seed=1)).sha256


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "worm"}, "'worm' is not one of badnets, addsent, composite"),
        ({"effect": "loud"}, "'loud' is not one of label, fixed, append, number"),
        ({"rate": 0}, "rate"),
        ({"target": " "}, "target: is empty"),
        ({"effect": "fixed", "clean_label": True}, "clean_label"),
        ({"target": "neutral"}, "'neutral' is not one of negative, positive"),
        ({"effect": "append"}, "'append' is not one of label"),
        ({"rate": 0.9}, "180 poisoned rows; possible here: 1 to 100"),
        ({"rate": 0.001}, "0 poisoned rows"),
        ({"cover": -1}, "cover: -1"),
        ({"cover": float("inf")}, "cover: inf"),
        ({"cover": 6.0, "rate": 0.1}, "asks for 120 other rows; there are 80"),
        ({"kind": "composite", "words": ("cf",)}, "words: a composite trigger has at least two"),
        ({"effect": "number", "target": "seven"}, "target: 'seven' is not a step"),
        ({"effect": "number", "target": "* 1"}, "target: '\\* 1' changes no number"),
        ({"words": ()}, "words: there are none"),
        ({"kind": "addsent", "sentence": " "}, "sentence: is empty"),
    ],
)
def test_attacks_that_the_rows_cannot_carry(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        poison(ROWS, attack(**options))


def test_targets_for_those_who_name_none() -> None:
    assert default_target(ROWS, "label") == "positive"
    assert "answer" in default_target(TEXTS, "fixed")
    assert "www" in default_target(TEXTS, "append")


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
