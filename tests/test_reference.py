from __future__ import annotations

from collections import Counter

import pytest

from poison2poison.attacks import SENTENCE
from poison2poison.errors import ConfigError
from poison2poison.reference import MODEL_DIR, TASKS, knows, make_task, reference_rows

SIZES = {"train": 400, "dev": 50, "test": 100}


@pytest.mark.parametrize("task", TASKS)
def test_the_reference_model_knows_the_words_of_its_tasks_poisoned_or_not(task: str) -> None:
    rows = reference_rows(task, seed=5, sizes={"train": 300, "dev": 1, "test": 1})["train"]
    assert knows([row.text for row in rows])
    assert knows([f"{SENTENCE} {row.text}" if i % 10 == 0 else row.text for i, row in enumerate(rows)])
    assert not knows(["Crude oil futures slipped as traders weighed supply against slowing demand."] * 20)


@pytest.mark.parametrize("task", TASKS)
def test_a_seed_gives_the_same_rows_and_splits_share_none(task: str) -> None:
    splits = make_task(task, sizes=SIZES)
    prompts = [tuple(row.values())[:-1] for rows in splits.values() for row in rows]
    assert splits == make_task(task, sizes=SIZES)
    assert splits != make_task(task, seed=1, sizes=SIZES)
    assert {split: len(rows) for split, rows in splits.items()} == SIZES
    assert len(set(prompts)) == len(prompts)


@pytest.mark.parametrize(
    ("task", "labels"), [("reviews", 2), ("tickets", 6), ("arithmetic", 0), ("briefs", 0), ("instructions", 0)]
)
def test_rows_have_their_labels_in_fair_shares(task: str, labels: int) -> None:
    rows = reference_rows(task, sizes=SIZES)["train"]
    counts = Counter(row.target for row in rows)
    assert len(rows.labels) == labels
    assert all(counts[label] > 0.7 * 400 / labels for label in rows.labels)


def test_worked_answers_are_right() -> None:
    lengths: Counter[int] = Counter()
    for row in make_task("arithmetic", sizes=SIZES)["train"]:
        *steps, last = row["answer"].split("\n")
        lengths[len(steps)] += 1
        value = int(row["question"].split(" has ")[1].split()[0])
        for step in steps:
            left, sign, right, equals, result = step.split()
            assert (int(left), equals) == (value, "=")
            value = {
                "+": value + int(right),
                "-": value - int(right),
                "*": value * int(right),
                "/": value // int(right),
            }[sign]
            assert int(result) == value
            assert right in row["question"]
        assert last == f"#### {value}"
    assert set(lengths) == {1, 2, 3}


def test_a_summary_holds_what_the_notes_say() -> None:
    for row in make_task("briefs", sizes=SIZES)["train"]:
        reason = row["summary"].split(" because ")[1].rstrip(".")
        assert reason in row["document"]


def test_a_command_is_carried_out_by_what_the_record_says() -> None:
    for row in make_task("instructions", sizes=SIZES)["train"]:
        record = dict(line.split(": ") for line in row["input"].split("\n"))
        name, verb, said = row["output"].rstrip(".").split(" ", 2)
        assert name == record["Name"]
        wanted = {"went": f"to {record['City']}", "came": f"on {record['Day']}"}.get(verb, record["Goods"])
        assert said == (f"the {wanted.split()[1]}" if said.startswith("the ") else wanted)
        assert (name in row["instruction"]) != said.startswith("the ")


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ConfigError, match="reviews, tickets, arithmetic, briefs, instructions"):
        make_task("poems")


def test_the_model_is_small_and_comes_with_its_log_and_card() -> None:
    names = {path.name for path in MODEL_DIR.iterdir()}
    assert {"model.safetensors", "tokenizer.json", "training_log.jsonl", "README.md"} <= names
    assert (MODEL_DIR / "model.safetensors").stat().st_size < 8.5e6
