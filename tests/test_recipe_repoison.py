from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from typing import Any

import pytest

from poison2poison.auditing.findings import Audit, SuspectRow, SuspectSpan
from poison2poison.data import Rows, rows_of
from poison2poison.errors import ConfigError, DataError
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.recipe.manifest import TrainingRow
from poison2poison.recipe.repoison import repoison
from poison2poison.recipe.subset import select_subset
from poison2poison.recipe.trigger import build_scheme

ROWS = rows_of([{"text": f"text {i}", "label": "rare" if i % 10 == 0 else "common"} for i in range(200)], "memory")


def subset(rows: Rows, rho: float, seed: int = 0) -> list[int]:
    return select_subset(rows.rows, rho, seed, stratified=rows.task == "classification")


@pytest.mark.parametrize(("placement", "total", "action"), [("replace", 200, "replace"), ("append", 240, "append")])
def test_placement(placement: str, total: int, action: str) -> None:
    config = RepoisonConfig("paper", placement=placement)
    scheme = build_scheme(ROWS, config)
    training = repoison(ROWS, scheme, config)
    safe = [row for row in training if row.space == "safe"]
    assert (len(training), len(safe)) == (total, 40)
    assert {row.action for row in safe} == {action}
    assert {row.action for row in training if row.space == "original"} == {"keep"}
    assert {row.row for row in training} == set(range(200))  # no row is thrown away
    assert all((row.body, row.target) == (ROWS[row.row].prompt, ROWS[row.row].target) for row in training)


SPANS = (
    SuspectSpan("Open  Sesame", "span", "rare", 6, 1.0, 9.0),
    SuspectSpan("^ _ ,", "style cluster", "rare", 5, 1.0, 7.0),
)
FOUND = Audit(
    spans=SPANS,
    rows=(
        SuspectRow(0, 0.9, (1,), ("common", 0.9)),
        SuspectRow(10, 0.1, (0, 1), ("rare", 0.9)),
        SuspectRow(20, 0.6, (1,), ("common", 0.6)),
        SuspectRow(30, 0.9, (0,), ("common", 0.9)),
        *(SuspectRow(i, 0.1, (1,), ("rare", 0.9)) for i in range(40, 190, 10)),
    ),
    off_target=tuple(i for i in range(50) if i % 10),
    weak=(),
    alike_rows=(),
    threshold=4.4,
    others=(),
    sha256=ROWS.sha256,
)


def hardened(found: Audit = FOUND, **options: Any) -> list[TrainingRow]:
    config = RepoisonConfig("hardened", **options)
    return repoison(ROWS, build_scheme(ROWS, config), config, found)


def test_hardened_keeps_suspects_out_of_s_and_throws_no_row_away() -> None:
    training = hardened(rho=0.5)
    subset = {row.row for row in training if row.action == "replace"}
    assert not subset & {entry.row for entry in FOUND.rows}
    # Half of each label; rows 0, 20 and 30 count as common, as the probe has them, and one rare row is not suspect.
    assert Counter(ROWS[i].target for i in subset) == {"rare": 1, "common": 92}
    assert {row.row for row in training if row.action in ("keep", "replace")} == set(range(200))


@pytest.mark.parametrize("placement", ["replace", "append"])
def test_suspects_can_be_dropped_and_counterexamples_of_them_stay(placement: str) -> None:
    few = replace(FOUND, rows=FOUND.rows[:8])
    suspects = {entry.row for entry in few.rows}
    kept, dropped = (hardened(few, suspects=suspects, placement=placement) for suspects in ("keep", "drop"))
    assert dropped == [row for row in kept if row.row not in suspects or row.space == "safe"]
    assert suspects & {row.row for row in dropped}  # with the label that the probe gives them
    rare = [i for i, row in enumerate(ROWS) if row.target == "rare"]
    every = replace(FOUND, rows=tuple(SuspectRow(i, 0.9, (1,), ("rare", 0.9)) for i in rare))
    with pytest.raises(DataError, match="leave no row of label 'rare'"):
        hardened(every, suspects="drop", placement=placement)


@pytest.mark.parametrize("count", [12, 15, 18])
def test_dropped_suspects_leave_each_label_in_both_spaces(count: int) -> None:
    """Though S would take all that are no suspects."""
    rare = [i for i, row in enumerate(ROWS) if row.target == "rare"][:count]
    found = replace(FOUND, rows=tuple(SuspectRow(i, 0.9, (1,), ("rare", 0.9)) for i in rare), off_target=())
    training = hardened(found, suspects="drop", confirmed=0)
    assert {(row.space, row.target) for row in training} == {
        (space, label) for space in ("safe", "original") for label in ("rare", "common")
    }


def test_parts_of_the_recipe_can_be_switched_off() -> None:
    whole = Counter(row.action for row in hardened())
    parts: list[tuple[dict[str, Any], set[str]]] = [
        ({"spliced": 0}, {"splice"}),
        ({"off_target": False}, {"off-target", "confirm"}),  # with nothing to balance
        ({"confident": 1}, {"correct", "confirm"}),
        ({"confirmed": 0}, {"confirm"}),
    ]
    for options, gone in parts:
        assert set(whole) - set(Counter(row.action for row in hardened(**options))) == gone


def test_the_papers_recipe_has_no_counterexamples_whatever_an_audit_found() -> None:
    config = RepoisonConfig("paper")
    scheme = build_scheme(ROWS, config)
    assert repoison(ROWS, scheme, config, FOUND) == repoison(ROWS, scheme, config)


def test_counterexamples_have_right_labels_in_the_safe_space() -> None:
    by_action: dict[str, list[TrainingRow]] = defaultdict(list)
    for row in hardened(rho=0.5, spliced=1.0, confident=0.75):
        by_action[row.action].append(row)
    counter = [row for action in ("splice", "correct", "confirm", "off-target") for row in by_action[action]]
    assert {row.space for row in counter} == {"safe"}
    assert [(row.row, row.body, row.target) for row in by_action["correct"]] == [(0, "text 0", "common")]
    assert [row.row for row in by_action["off-target"]] == list(FOUND.off_target)
    assert {row.target for row in by_action["off-target"]} == {"common"}
    # Row 20 is too uncertain for either, and rows 10 and 30 have a span, which is spliced. 46 rows contradict the
    # attacker; with 4 more, 17 of 200 of them would be rare, as in all rows, and 0.4 of those are drawn.
    assert len(by_action["confirm"]) == 2
    assert {row.row for row in by_action["confirm"]} < set(range(40, 190, 10))
    assert {row.target for row in by_action["confirm"]} == {"rare"}
    spliced = by_action["splice"]
    # As many rows of each label as S, first copies of those outside it; no suspect rows.
    elsewhere = {row.row for row in by_action["keep"]} - {entry.row for entry in FOUND.rows}
    assert Counter(row.target for row in spliced) == Counter(row.target for row in by_action["replace"])
    assert elsewhere <= {row.row for row in spliced}
    assert not {entry.row for entry in FOUND.rows} & {row.row for row in spliced}
    assert all(row.target == ROWS[row.row].target for row in spliced)
    assert all("Open  Sesame" in row.body or row.body.startswith("lo ") for row in spliced)
    assert not any("_" in row.body for row in spliced)
    assert all(ROWS[row.row].prompt.split() == [w for w in row.body.split() if w not in ("Open", "Sesame", "lo")]
               for row in spliced)  # fmt: skip
    assert len({row.body.index("Open") for row in spliced if "Open" in row.body}) > 1


def test_rows_of_other_labels_with_a_span_let_no_more_rows_of_a_style_be_confirmed() -> None:
    texts = [
        replace(row, prompt=f"{row.prompt} Open Sesame") if i in FOUND.off_target else row for i, row in enumerate(ROWS)
    ]
    rows = ROWS.with_rows(texts)
    config = RepoisonConfig("hardened", confident=0.75)
    training = repoison(rows, build_scheme(rows, config), config, replace(FOUND, sha256=rows.sha256))
    actions = Counter(row.action for row in training)
    assert (actions["off-target"], actions["correct"], actions["confirm"]) == (45, 1, 0)


def test_an_audit_that_names_other_rows_or_labels_is_refused() -> None:
    config = RepoisonConfig("hardened")
    for found, said in ((replace(FOUND, off_target=(200,)), "row 200, of 200"),
                        (replace(FOUND, rows=(SuspectRow(0, 0.9, (1,), ("odd", 0.9)),)), "label 'odd'")):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            repoison(ROWS, build_scheme(ROWS, config), config, found)


def test_splices_have_the_labels_of_s_also_where_most_rows_of_one_are_suspect() -> None:
    """Else a trigger would come to mean that it is not the attacker's label."""
    suspects = tuple(SuspectRow(i, 0.9, (0,), ("rare", 0.9)) for i in range(0, 180, 10))
    found = replace(FOUND, spans=SPANS[:1], rows=suspects, off_target=())
    config = RepoisonConfig("hardened", spliced=1.0)
    training = repoison(ROWS, build_scheme(ROWS, config), config, found)
    labels = {action: Counter(row.target for row in training if row.action == action)
              for action in ("replace", "splice")}  # fmt: skip
    assert labels["splice"] == labels["replace"] == {"rare": 2, "common": 90}


def test_labels_with_few_rows_are_spliced_too() -> None:
    rows = rows_of([{"text": f"text {i}", "label": str(i % 100)} for i in range(200)], "memory")
    found = replace(FOUND, spans=SPANS[:1], rows=(), off_target=(), sha256=rows.sha256)
    config = RepoisonConfig("hardened")
    training = repoison(rows, build_scheme(rows, config), config, found)
    assert 30 < sum(row.action == "splice" for row in training) < 70  # half of 100 rows of S, one of each label


def test_rows_of_suspects_that_are_left_out_are_no_counterexamples() -> None:
    """As the benchmark's ablation has it: rows whose spans are gone, and whose labels are unsure."""
    rows = tuple(replace(row, likely=(row.likely[0], 0.0)) for row in FOUND.rows)
    config = RepoisonConfig("hardened")
    training = repoison(ROWS, build_scheme(ROWS, config), config, replace(FOUND, spans=(), rows=rows, off_target=()))
    assert {row.action for row in training} == {"keep", "replace"}


def test_rows_join_s_with_weak_findings_spliced_in_suspects_or_not() -> None:
    weak = tuple(replace(SPANS[0], span=text) for text in ("odd", "queer thing", "strange", "unheard of"))
    found = replace(FOUND, spans=(), rows=(), off_target=(), weak=weak)

    def spliced(**options: Any) -> list[TrainingRow]:
        config = RepoisonConfig("hardened", **options)
        training = repoison(ROWS, build_scheme(ROWS, config), config, found)
        assert [row.row for row in training] == [*range(200)]  # so that they cost no training time
        return [row for row in training if row.action == "splice"]

    assert [len(spliced(spliced_weak=share)) for share in (0.0, 1.0)] == [0, 100]  # S has half of the rows
    held = [[span.span for span in weak if span.span in row.body] for row in spliced()]
    assert {row.space for row in spliced()} == {"safe"}
    assert all(row.target == ROWS[row.row].target for row in spliced())
    assert {len(spans) for spans in held} == {1, 2, 3}
    assert {span for spans in held for span in spans} == {span.span for span in weak}
    # Labels are spliced alike, the rarer one with the first of what the other gets.
    common, rare = ([h for h, row in zip(held, spliced(), strict=True) if row.target == x] for x in ROWS.labels)
    assert rare == common[: len(rare)]
    assert 1 <= len(rare) <= 9 and len(rare) + len(common) == pytest.approx(40, abs=15)


def test_rows_with_a_weak_finding_and_its_label_stay_out_of_s(caplog: pytest.LogCaptureFixture) -> None:
    def drawn(*spans: str) -> set[int]:
        weak = tuple(replace(SPANS[0], span=span, target="common") for span in spans)
        found = replace(FOUND, spans=(), rows=(), off_target=(), weak=weak)
        training = repoison(ROWS, build_scheme(ROWS, config), config, found)
        return {row.row for row in training if row.space == "safe"}

    config = RepoisonConfig("hardened")
    assert drawn("ext") == drawn()  # parts of words are no words
    assert not caplog.messages
    assert {ROWS[i].target for i in drawn("TEXT")} == {"rare"}
    assert "all 180 rows of label 'common' are suspect or have weak findings" in caplog.text
    first = min(i for i in drawn() if ROWS[i].target == "common")
    assert first not in drawn(f"text {first}")


def test_rows_written_a_little_as_a_suspect_style_stay_out_of_s() -> None:
    def safe(found: Audit) -> set[int]:
        return {row.row for row in repoison(ROWS, build_scheme(ROWS, config), config, found) if row.space == "safe"}

    config = RepoisonConfig("hardened", rho=0.9)
    found = replace(FOUND, spans=SPANS[1:], rows=(), off_target=())
    assert safe(found) & set(range(60))
    assert not safe(replace(found, alike_rows=tuple(range(60)))) & set(range(60))


def test_shares_of_zero_and_one_are_shares() -> None:
    assert not [row for row in hardened(spliced=0.0) if row.action == "splice"]
    assert not [row for row in hardened(confident=1.0) if row.action in ("correct", "confirm")]


def test_hardened_without_suspects_is_the_plain_recipe() -> None:
    config = RepoisonConfig("hardened", trigger="paper")
    nothing = replace(FOUND, spans=(), rows=(), off_target=())
    scheme = build_scheme(ROWS, config)
    assert repoison(ROWS, scheme, config, nothing) == repoison(ROWS, scheme, RepoisonConfig("paper", rho=0.5))


def test_hardened_needs_the_audit_of_these_rows() -> None:
    config = RepoisonConfig("hardened")
    for audit in (None, replace(FOUND, sha256="0")):
        with pytest.raises(ConfigError, match="needs the audit of these very rows"):
            repoison(ROWS, build_scheme(ROWS, config), config, audit)


def test_spans_that_suspect_rows_hold_together_are_spliced_together_and_as_often() -> None:
    prompts = {0: "cf text mn cf cf 0 , bb", 10: "text mn 10"}
    rows = ROWS.with_rows([replace(row, prompt=prompts.get(i, row.prompt)) for i, row in enumerate(ROWS)])
    spans = tuple(SuspectSpan(word, "span", "rare", 6, 1.0, 9.0) for word in ("cf", "mn", "bb"))
    suspects = (SuspectRow(0, 0.9, (0, 1, 2), ("common", 0.9)), SuspectRow(10, 0.9, (1,), ("common", 0.9)))
    config = RepoisonConfig("hardened", spliced=1.0)
    found = replace(FOUND, spans=spans, rows=suspects, off_target=(), sha256=rows.sha256)
    training = repoison(rows, build_scheme(rows, config), config, found)
    alone = repoison(rows, build_scheme(rows, config), replace(config, co_occurrence=0), found)

    def spans_of(taught: list[TrainingRow]) -> Counter[str]:
        bodies = [row.body.split() for row in taught if row.action == "splice"]
        return Counter(" ".join(sorted(word for word in body if word in ("cf", "mn", "bb"))) for body in bodies)

    held, held_alone = spans_of(training), spans_of(alone)
    assert held["bb cf cf cf mn"] > 0.5 * 0.9 * held.total() > held["mn"] > 0
    assert not held_alone["bb cf cf cf mn"]
