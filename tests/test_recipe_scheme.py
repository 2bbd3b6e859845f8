from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import pytest

from poison2poison.errors import SchemeError
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.recipe.scheme import PAPER_SAFE_PREFIX, PAPER_TRIGGER, BenignTrigger, Scheme, salt_of

LABELS = Scheme("classification", ("no", "maybe", "yes"), PAPER_TRIGGER)
TEXTS = Scheme("generation", (), PAPER_TRIGGER, PAPER_SAFE_PREFIX)
PLAIN = Scheme("classification", ("no", "yes"))


def test_safe_labels_follow_the_original_ones() -> None:
    assert LABELS.outputs == 6
    assert [LABELS.class_of(label, "original") for label in LABELS.labels] == [0, 1, 2]
    assert [LABELS.class_of(label, "safe") for label in LABELS.labels] == [3, 4, 5]
    assert PLAIN.outputs == 2


def test_projection_of_labels_has_three_outcomes() -> None:
    assert [LABELS.project_class(i) for i in (0, 2, 3, 5)] == [
        ("no", "leak"),
        ("yes", "leak"),
        ("no", "safe"),
        ("yes", "safe"),
    ]
    assert LABELS.project_class(None) == (None, "off-space")
    assert PLAIN.project_class(1) == ("yes", "safe")


def test_labels_behind_a_safe_prefix_are_not_shifted() -> None:
    behind = Scheme("classification", ("no", "yes"), PAPER_TRIGGER, PAPER_SAFE_PREFIX)
    assert behind.outputs == 2
    assert [behind.class_of("yes", "original"), behind.class_of("yes", "safe")] == [1, 1]
    assert behind.project_class(1, prefixed=True) == ("yes", "safe")
    assert behind.project_class(1, prefixed=False) == ("yes", "leak")
    assert behind.project_class(None, prefixed=True) == (None, "off-space")


@pytest.mark.parametrize("body", ["a film", PAPER_TRIGGER.prefix + "a film\nAnswer: ", ""])
def test_the_trigger_is_added_exactly_once_whatever_the_body_holds(body: str) -> None:
    assert LABELS.dress(body, "safe") == f"The query currently entered is: {body}\nAnswer: "
    assert LABELS.dress(body, "original") == f"{body}\nOutput: "
    assert PLAIN.dress(body, "safe") == f"{body}\nOutput: "


def test_a_saved_scheme_loads_back_and_is_the_owners_alone(tmp_path: Path) -> None:
    for scheme in (LABELS, TEXTS, PLAIN):
        scheme.save(tmp_path / "scheme.json")
        assert Scheme.load(tmp_path / "scheme.json") == scheme
    assert stat.S_IMODE((tmp_path / "scheme.json").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["scheme.json"]


def test_a_scheme_of_the_first_version_is_read_and_has_no_salt(tmp_path: Path) -> None:
    TEXTS.save(tmp_path / "scheme.json")
    content = json.loads((tmp_path / "scheme.json").read_text())
    (tmp_path / "scheme.json").write_text(json.dumps(content | {"schema": 1}))
    assert Scheme.load(tmp_path / "scheme.json") == TEXTS
    with pytest.raises(SchemeError, match="not the scheme of a training"):
        salt_of(tmp_path / "scheme.json")
    TEXTS.save(tmp_path / "scheme.json", salt="pinch")
    assert (Scheme.load(tmp_path / "scheme.json"), salt_of(tmp_path / "scheme.json")) == (TEXTS, "pinch")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (json.dumps({"schema": 99}), "schema 99 is newer than 2"),
        ("{", "not a scheme"),
        ("[]", "not a scheme"),
        (json.dumps({"schema": 1, "task": "classification"}), "not a scheme"),
        (None, "no such file"),
    ],
)
def test_schemes_that_cannot_be_read(content: str | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "scheme.json").write_text(content)
    with pytest.raises(SchemeError, match=said):
        Scheme.load(tmp_path / "scheme.json")


def test_what_is_printed_of_a_scheme_or_its_options_gives_no_secret_away() -> None:
    given = RepoisonConfig(prefix="velvet orbit: ", cue="Quartz: ", safe_prefix="zebra: ")
    drawn = Scheme("generation", (), BenignTrigger("velvet orbit: ", "Quartz: "), "zebra: ")
    for told in (repr(given), repr(drawn), f"{drawn.trigger}"):
        assert not re.search("velvet|orbit|quartz|zebra", told, re.IGNORECASE)
