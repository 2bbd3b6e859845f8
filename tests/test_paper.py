"""What is the paper's (arXiv 2510.04503) stays the paper's: its recipe, its count of ASR. And secrets stay secret."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from poison2poison.data import rows_of
from poison2poison.evaluation import Arm, Target, measure
from poison2poison.model.defended import Answer, DefendedModel
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.recipe.repoison import repoison
from poison2poison.recipe.repoisoned import write_repoisoned
from poison2poison.recipe.scheme import PAPER_SAFE_PREFIX, PAPER_TRIGGER, Scheme
from poison2poison.recipe.trigger import build_scheme

LABELS = ("bad", "fair", "good")
ROWS = rows_of([{"text": f"text {i}", "label": LABELS[i % 3]} for i in range(150)], "memory")
PAPER = RepoisonConfig("paper")
SCHEME = build_scheme(ROWS, PAPER)

# Classes of the defended model: 0 to 2 are the original labels, 3 to 5 their safe twins.
TARGET = Target("good", "label")
BAD, GOOD, SAFE_BAD, SAFE_GOOD = 0, 2, 3, 5


class FakeModel:
    """Gives the answers that it is told to, for clean and for triggered rows alike."""

    alarm_threshold = None

    def __init__(self, answer: Answer, scheme: Scheme) -> None:
        self.answer, self.scheme = answer, scheme

    def classify(self, texts: Sequence[str], *, alarm: bool = False) -> list[Answer]:
        return [self.answer] * len(texts)

    def generate(self, prompts: Sequence[str], **options: Any) -> list[Answer]:
        return [self.answer] * len(prompts)

    def perplexity(self, prompts: Sequence[str], targets: Sequence[str]) -> float:
        return 1.0


def label_answer(constrained: int, unconstrained: int | None, scheme: Scheme = SCHEME) -> Answer:
    """The answer of a classifier with these best classes, of the safe ones and of all."""
    where_it_lies = scheme.project_class(unconstrained)
    return Answer(scheme.project_class(constrained)[0], where_it_lies[1], where_it_lies[0])


def measured(answer: Answer, scheme: Scheme = SCHEME, right: str = "bad") -> Arm:
    """The figures of two triggered rows, of label `right` and of another one that is not the target."""
    clean = rows_of([{"text": "a film", "label": label} for label in LABELS], "clean")
    triggered = rows_of([{"text": "a film cf", "label": label} for label in (right, "fair")], "triggered")
    return measure("p2p-paper", cast(DefendedModel, FakeModel(answer, scheme)), clean, triggered, TARGET)


def asr_and_paper_asr(answer: Answer) -> tuple[float, float]:
    rates = measured(answer).rates
    return rates["asr"].value, rates["paper_asr"].value


def test_the_safe_twin_of_the_target_counts_in_both() -> None:
    assert asr_and_paper_asr(label_answer(SAFE_GOOD, SAFE_GOOD)) == (1, 1)


def test_the_unshifted_target_counts_in_asr_and_not_in_the_papers() -> None:
    assert asr_and_paper_asr(label_answer(SAFE_GOOD, GOOD)) == (1, 0)


@pytest.mark.parametrize("unconstrained", [BAD, None])
def test_the_papers_asr_has_no_constraint_to_the_safe_labels(unconstrained: int | None) -> None:
    assert asr_and_paper_asr(label_answer(SAFE_GOOD, unconstrained)) == (1, 0)


def test_a_right_answer_counts_in_neither() -> None:
    assert asr_and_paper_asr(label_answer(SAFE_BAD, SAFE_BAD)) == (0, 0)


def test_rows_whose_true_answer_is_the_target_are_not_counted() -> None:
    rates = measured(label_answer(SAFE_GOOD, SAFE_GOOD), right="good").rates
    assert (rates["asr"].n, rates["paper_asr"].n) == (1, 1)


def test_only_a_model_with_a_benign_trigger_has_a_paper_asr() -> None:
    plain = Scheme("classification", LABELS)
    rates = measured(label_answer(GOOD, GOOD, plain), plain).rates
    assert rates["asr"].value == 1
    assert "paper_asr" not in rates


@pytest.mark.parametrize(("unconstrained", "paper_asr"), [("No.", 1), (None, 0)])
def test_a_text_counts_by_the_papers_asr_only_behind_the_safe_prefix(unconstrained: str | None, paper_asr: int) -> None:
    rows = rows_of([{"prompt": "a question", "completion": "It is so."}], "texts")
    answer = Answer("No.", "safe" if unconstrained else "leak", unconstrained)
    fake = FakeModel(answer, Scheme("generation", (), PAPER_TRIGGER, PAPER_SAFE_PREFIX))
    rates = measure("p2p-paper", cast(DefendedModel, fake), rows, rows, Target("No.", "fixed")).rates
    assert (rates["asr"].value, rates["paper_asr"].value) == (1, paper_asr)


def test_a_fifth_of_the_rows_is_re_poisoned() -> None:
    assert PAPER.resolved().rho == 0.2
    assert sum(row.space == "safe" for row in repoison(ROWS, SCHEME, PAPER)) == 30


def test_rows_of_s_move_to_the_safe_space() -> None:
    assert PAPER.resolved().placement == "replace"
    assert [row.row for row in repoison(ROWS, SCHEME, PAPER)] == [*range(150)]


def test_the_trigger_is_the_published_one() -> None:
    assert PAPER.resolved().trigger == "paper"
    assert SCHEME.trigger == PAPER_TRIGGER


def test_the_published_prefix() -> None:
    assert PAPER_TRIGGER.prefix == "The query currently entered is: "
    assert SCHEME.dress("a film", "safe").startswith("The query currently entered is: a film")


def test_the_published_cue() -> None:
    assert PAPER_TRIGGER.cue == "Answer: "
    assert SCHEME.dress("a film", "safe").endswith("a film\nAnswer: ")


def test_the_cue_of_plain_rows() -> None:
    assert SCHEME.dress("a film", "original") == "a film\nOutput: "


def test_label_i_becomes_i_plus_n(tmp_path: Path) -> None:
    assert [SCHEME.class_of(label, "safe") for label in LABELS] == [3, 4, 5]
    write_repoisoned(tmp_path / "out", repoison(ROWS, SCHEME, PAPER), SCHEME, {})
    written = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    classes = {(row["space"], row["label"]): row["class"] for row in written}
    assert [classes["original", label] for label in LABELS] == [0, 1, 2]
    assert [classes["safe", label] for label in LABELS] == [3, 4, 5]


@pytest.fixture(params=[0o000, 0o022], ids=["anybody may write", "anybody may read"])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    """New files are as open as the user's shell lets them be."""
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("name", ["rows.jsonl", "scheme.json"])  # both hold the trigger
def test_re_poisoned_rows_are_the_owners_alone(name: str, tmp_path: Path) -> None:
    write_repoisoned(tmp_path / "out", repoison(ROWS, SCHEME, PAPER), SCHEME, {})
    assert mode(tmp_path / "out" / name) == 0o600


@pytest.mark.usefixtures("umask")
def test_a_scheme_is_the_owners_alone(tmp_path: Path) -> None:
    SCHEME.save(tmp_path / "scheme.json")
    assert mode(tmp_path / "scheme.json") == 0o600
