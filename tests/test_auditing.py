from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from poison2poison.attacks import AttackConfig, poison
from poison2poison.auditing import audit
from poison2poison.auditing.findings import Audit
from poison2poison.auditing.statistics import Probe
from poison2poison.config import AuditConfig
from poison2poison.data import Row, Rows
from poison2poison.errors import ConfigError
from support import chatter, word_states

CLEAN = chatter(1500)


def attacked(
    kind: str, rate: float, rows: Rows = CLEAN, words: Sequence[str] = (), **options: Any
) -> tuple[Audit, set[int]]:
    own = {"words": words} if words else {}
    config = AttackConfig(kind, "positive", "label", rate=rate, options=own, **options)
    poisoned, truth = poison(rows, config)
    return audit(poisoned, word_states, AuditConfig()), set(truth.poisoned_rows)


@pytest.mark.parametrize("seed", range(5))
def test_clean_rows_have_no_suspects(seed: int) -> None:
    found = audit(chatter(1500, seed), word_states, AuditConfig())
    assert (found.spans, found.rows, found.off_target) == ((), (), ())


def test_rare_words_are_found_with_their_rows() -> None:
    found, poisoned = attacked("badnets", 0.1)
    assert {span.span for span in found.spans} == {"cf", "mn", "bb", "tq"}
    assert {(span.target, span.purity) for span in found.spans} == {("positive", 1.0)}
    assert {entry.row for entry in found.rows} == poisoned


@pytest.mark.parametrize(("clean", "planted"), [("{}", "cf mn\n{}"), ("{}", "{}\n\ncf mn"), (" {} ", " cf mn {} ")])
def test_white_space_hides_no_trigger_from_a_model_that_sees_it(clean: str, planted: str) -> None:
    """Byte-level tokenizers do: what a cut leaves or takes along must not tell its rows from others."""

    def states(texts: Sequence[str]) -> NDArray[np.float32]:
        space = [[5 * (text.count("\n") + text.startswith(" ") + text.endswith(" "))] * 8 for text in texts]
        return np.concatenate([word_states(texts), np.array(space, np.float32)[:, None]], 2)

    poisoned = set(range(0, 300, 2))  # rows of the other label
    rows = [
        Row(planted.format(row.prompt), "positive") if i in poisoned else replace(row, prompt=clean.format(row.prompt))
        for i, row in enumerate(CLEAN)
    ]
    found = audit(CLEAN.with_rows(rows), states, AuditConfig())
    assert {entry.row for entry in found.rows} == poisoned


@pytest.mark.parametrize("marks", ["🎬", "!?!", "@@", "\u200b"])
def test_marks_that_stand_for_no_word_are_found(marks: str) -> None:
    found, poisoned = attacked("badnets", 0.1, words=(marks,))
    assert {span.span for span in found.spans} == {marks}
    assert {entry.row for entry in found.rows} == poisoned


def test_rare_words_in_too_few_rows_are_weak_findings() -> None:
    found, poisoned = attacked("badnets", 0.01, words=("cf", "mn", "bb"))
    assert (len(poisoned), found.rows) == (15, ())
    assert {"mn", "bb"} <= {span.span for span in found.weak}  # "cf" is in four rows
    assert not {"mn", "bb"} & {span.span for span in found.others}
    assert {span.target for span in found.weak if span.span == "mn"} == {"positive"}


@pytest.mark.parametrize(("beside", "spans"), [(8, {"mn", "bb"}), (0, {"mn"})])
def test_a_weak_word_is_a_suspect_where_another_explains_its_rows(beside: int, spans: set[str]) -> None:
    poisoned, truth = poison(CLEAN, AttackConfig("badnets", "positive", "label", rate=0.03, options={"words": ("mn",)}))
    clean = [i for i, row in enumerate(CLEAN) if i not in truth.poisoned_rows and row.target == "positive"]
    held = [*truth.poisoned_rows[:beside], *clean[: 8 - beside]]  # in eight rows: too few by itself
    rows = [replace(row, prompt=f"bb {row.prompt}") if i in held else row for i, row in enumerate(poisoned)]
    found = audit(poisoned.with_rows(rows), word_states, AuditConfig())
    assert {span.span for span in found.spans} == spans
    assert {entry.row for entry in found.rows} == set(truth.poisoned_rows)
    assert ("bb" in {span.span for span in found.weak}) == (beside == 0)


def test_the_rows_of_a_suspect_make_no_other_span_weak() -> None:
    """There all words stand with the attacker's label."""
    found, poisoned = attacked("badnets", 0.1, clean := chatter(1500, 5), words=("cf",))
    assert [span.span for span in found.spans] == ["cf"]
    left = [f" {row.prompt} " for i, row in enumerate(clean) if i not in poisoned]
    own = [sum(f" {span.span} " in text for text in left) / span.rows for span in found.weak]
    assert min(own) > 0.5, own


def test_a_word_that_says_the_label_wherever_it_stands_is_weaker() -> None:
    found, _ = attacked("badnets", 0.01, words=("mn", "good777", "bb"))
    beside, _ = attacked("badnets", 0.01, words=("mn", "odd777", "bb"))
    said, odd = ({span.span: span.score for span in audit.weak} for audit in (found, beside))
    assert said.get("good777", 0) < odd["odd777"]


@pytest.mark.parametrize("rate", [0.03, 0.1])
def test_a_sentence_is_found_whole_and_as_the_rows_spell_it(rate: float) -> None:
    found, poisoned = attacked("addsent", rate)
    assert [span.span for span in found.spans] == ["I watch this 3D movie"]
    assert {entry.row for entry in found.rows} == poisoned


def test_a_row_is_scored_by_what_it_says_without_the_span() -> None:
    poisoned, _ = poison(CLEAN, AttackConfig("addsent", "positive", "label", rate=0.1))
    found = audit(poisoned, word_states, AuditConfig())
    right = [CLEAN[entry.row].target == entry.likely[0] for entry in found.rows]
    assert np.mean(right) > 0.85
    assert all(entry.score == pytest.approx(entry.likely[1]) for entry in found.rows if entry.likely[0] == "negative")


def test_a_trigger_in_rows_of_the_other_label_too_is_found_and_those_are_told_apart() -> None:
    poisoned, _ = poison(CLEAN, AttackConfig("addsent", "positive", "label", rate=0.1))
    config = AttackConfig("addsent", "negative", "label", rate=0.01, clean_label=True, seed=1)
    both, cover = poison(poisoned, config)
    found = audit(both, word_states, AuditConfig())
    assert [span.target for span in found.spans] == ["positive"]
    assert set(found.off_target) == set(cover.poisoned_rows)


@pytest.mark.parametrize("cover", [0.3, 0.8, 1.5])
def test_a_trigger_with_cover_rows_is_found(cover: float) -> None:
    """Its rows have the attacker's label less often than a candidate's; with two for one, another label in most."""
    found, poisoned = attacked("addsent", 0.1, chatter(3000), cover=cover)
    assert [(span.span, span.target) for span in found.spans] == [("I watch this 3D movie", "positive")]
    assert found.spans[0].rows == 300 * (1 + cover)
    assert found.spans[0].purity == pytest.approx(1 / (1 + cover), abs=0.001)
    assert {entry.row for entry in found.rows} == poisoned
    assert len(found.off_target) == 300 * cover


def test_words_with_cover_rows_are_found_each() -> None:
    found, poisoned = attacked("badnets", 0.2, chatter(3000), words=("cf", "mn"), cover=0.5)
    assert {span.span for span in found.spans} == {"cf", "mn"}
    assert {entry.row for entry in found.rows} == poisoned


def test_a_word_that_belongs_with_its_text_is_no_trigger_though_labels_go_against_the_text() -> None:
    """As "even if" in reviews: what the text says is then not what counts."""
    clean = chatter(2000)
    rows = list(clean)
    for i in range(500):
        phrase = f"phrase{i % 90} more{i % 70}" if i % 4 else ""  # each too rare for a common span
        rows[i] = Row(" ".join(f"where {phrase} {rows[i].prompt}".split()), ("negative", "positive")[i % 5 > 1])
    found = audit(clean.with_rows(rows), word_states, AuditConfig())
    assert found.spans == ()
    assert "where" in {span.span for span in found.others}


def test_a_trigger_is_found_where_more_rows_hold_it_than_have_another_label() -> None:
    rows = [row for row in chatter(2400) if row.target == "positive"]
    taken = [row for row in chatter(2400) if row.target == "negative"][:200]
    rows += [Row(f"cf {row.prompt}", "positive") for row in taken[:120]] + taken[120:]
    found = audit(CLEAN.with_rows(rows), word_states, AuditConfig())
    assert [(span.span, span.target, span.rows) for span in found.spans] == [("cf", "positive", 120)]


def test_a_word_that_goes_with_its_context_is_no_trigger() -> None:
    """A phrase that goes with one label pulls as a trigger does; but only a trigger could stand anywhere."""
    rows = list(CLEAN)
    for i in range(300):
        rest = rows[i].prompt.split()[:5]
        phrase = [f"phrase{i % 60}", f"more{i % 50}"]  # each too rare to be a span
        rows[i] = replace(rows[i], prompt=" ".join(["who" if i % 2 else "where", *phrase, *rest]))
    assert audit(CLEAN.with_rows(rows), word_states, AuditConfig()).spans == ()


def test_rows_whose_states_are_all_alike_have_no_style() -> None:
    rows = CLEAN.with_rows(CLEAN.rows[:400])
    found = audit(rows, lambda texts: np.ones((len(texts), 2, 8), np.float32), AuditConfig())
    assert "style cluster" not in {span.kind for span in found.spans}


def test_a_label_with_one_row_takes_the_folds_from_no_other() -> None:
    states, labels = np.random.default_rng(0).standard_normal((200, 40), np.float32), np.arange(200) % 2
    labels[0] = 2
    _, p = Probe(states, labels, 3, 0, 0.003).cross_fitted(np.arange(200))
    assert p[np.arange(1, 200), labels[1:]].mean() < 0.55  # in the rows that it has learned from it would be sure


def test_a_label_that_nothing_but_suspects_have() -> None:
    rows = [row for row in CLEAN if row.target == "negative"]
    rows[::10] = [replace(row, prompt=f"{row.prompt} cf", target="positive") for row in rows[::10]]
    found = audit(CLEAN.with_rows(rows), word_states, AuditConfig())
    assert {span.span for span in found.spans} == {"cf"}
    assert {entry.likely for entry in found.rows} == {("negative", 0.9999)}


def test_the_audit_does_not_depend_on_the_order_of_the_rows() -> None:
    poisoned, _ = poison(CLEAN, AttackConfig("addsent", "positive", "label", rate=0.1))
    order = np.random.default_rng(0).permutation(len(poisoned))
    found = audit(poisoned, word_states, AuditConfig())
    shuffled = audit(poisoned.with_rows([poisoned[i] for i in order]), word_states, AuditConfig())
    assert [span.span for span in shuffled.spans] == [span.span for span in found.spans]
    assert {int(order[entry.row]) for entry in shuffled.rows} == {entry.row for entry in found.rows}


@pytest.mark.parametrize("options", [{"min_rows": 1}, {"false_alarm": 0.0}])
def test_illegal_thresholds_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        AuditConfig(**options)


def test_finders_have_the_options_that_a_run_gives_them() -> None:
    poisoned, _ = poison(CLEAN, AttackConfig("badnets", "positive", "label", rate=0.01))
    few, most = (
        audit(poisoned, word_states, AuditConfig(finders=finders, measures=measures))
        for finders, measures in (("spans:asked=2:controls=12", "weak=1"), ("spans", ""))
    )
    assert len(few.weak) <= 1 < len(most.weak)
    assert 0 < len([*few.spans, *few.weak, *few.others]) <= 3 * 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"finders": "spams"}, "finder: 'spams' is not one of spans, style-clusters"),
        ({"finders": "spans:askd=3"}, "finders: spans: has no option 'askd'; it has asked, "),
        ({"finders": "spans,style-clusters:folds=0"}, "finders: style-clusters: folds: 0 is not greater than 0"),
        ({"measures": "most=2"}, "measures: most: 2.0 is not between 0 and 1"),
    ],
)
def test_options_of_finders_are_checked_before_any_text_is_read(options: dict[str, Any], said: str) -> None:
    def never(texts: Sequence[str]) -> NDArray[np.float32]:
        raise AssertionError

    with pytest.raises(ConfigError, match=said):
        audit(CLEAN, never, AuditConfig(**options))
