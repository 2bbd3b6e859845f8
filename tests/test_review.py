"""Suspects for people to read and label, and their answers in the recipe."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from poison2poison import cli, review
from poison2poison.auditing.findings import Audit, SuspectRow, SuspectSpan
from poison2poison.data import Rows, as_records, rows_of
from poison2poison.errors import DataError
from poison2poison.files import write_json, write_lines
from support import opinions

NUMBERED = enumerate(as_records(opinions(60)))
ROWS = rows_of([record | {"text": f"{i} {record['text']}"} for i, record in NUMBERED], "rows")
"""No row is the copy of another."""
HOSTILE = "<script>cf</script>"


def found(rows: Rows = ROWS) -> Audit:
    """An audit with two suspects: a span of rows 1, 3 and 5, and a style of rows 7 and 9."""
    spans = (
        SuspectSpan(HOSTILE, "span", "positive", 3, 1.0, 9.0, {"learned": (3.0, 0.1)}),
        SuspectSpan("hath", "style cluster", "positive", 2, 1.0, 8.0),
    )
    held = [SuspectRow(i, 0.9, (0,), ("negative", 0.9)) for i in (1, 3, 5)]
    held += [SuspectRow(i, 0.8, (1,), ("negative", 0.3)) for i in (7, 9)]
    weak = (SuspectSpan("mn", "span", "positive", 2, 1.0, 1.0),)
    return Audit(spans, tuple(held), (2,), weak, (4,), 4.0, (), rows.sha256)


def marks(*numbers: int) -> list[str]:
    return [ROWS[i].fingerprint for i in numbers]


# --- tables ----------------------------------------------------------------------------------------------------------


def test_what_was_found_is_a_table_a_line_each() -> None:
    table = review.spans(found())
    assert [*table["level"]] == ["suspect", "suspect", "weak"]
    assert [*table["rows"]] == [3, 2, 2]
    rows = review.suspects(found(), ROWS)
    assert [*rows["row"]] == [1, 3, 5, 7, 9]
    assert [*rows["prompt"]] == [ROWS[i].text for i in (1, 3, 5, 7, 9)]


def test_an_audit_without_suspects_has_the_same_columns() -> None:
    nothing = replace(found(), spans=(), rows=(), weak=())
    assert [*review.spans(nothing).columns] == [*review.spans(found()).columns]
    assert [*review.suspects(nothing, ROWS).columns] == [*review.suspects(found(), ROWS).columns]
    assert review.as_dataset(nothing, ROWS).features == review.as_dataset(found(), ROWS).features


def test_a_notebook_shows_an_audit_and_runs_no_text_of_a_row() -> None:
    page = found()._repr_html_()
    assert "suspect rows: 5" in page
    assert "<script>" not in page
    assert "&lt;script&gt;cf" in page


def test_suspects_become_a_dataset() -> None:
    held = review.as_dataset(found(), ROWS)
    assert held["row"][:2] == [1, 3]
    assert held["suspects"][0] == [HOSTILE]


def test_figures_of_a_run_are_a_table(tmp_path: Path) -> None:
    rate = {"value": 0.5, "n": 4, "low": 0.2, "high": 0.8}
    arm = {"name": "clean", "ca": rate, "utility": {"rouge_l": {"value": 0.3, "n": 4}}, "train_seconds": 1.0}
    write_json(tmp_path / "results.json", {"arms": [arm]})
    table = review.figures(tmp_path / "results.json")
    assert [*table["figure"]] == ["ca", "rouge_l"]
    assert table["high"].isna().tolist() == [False, True]
    for content in ("{", "[]", '{"arms": [1]}'):
        (tmp_path / "results.json").write_text(content)
        with pytest.raises(DataError, match="holds no figures"):
            review.figures(tmp_path / "results.json")


# --- Argilla ---------------------------------------------------------------------------------------------------------


def answered(record: dict[str, Any], **values: list[Any]) -> dict[str, Any]:
    """A record as Argilla gives it back: one response for each person."""
    responses = {
        name: [{"value": value, "user_id": str(person)} for person, value in enumerate(given)]
        for name, given in values.items()
    }
    return record | {"responses": responses, "vectors": {}, "status": "completed", "_server_id": "1"}


def test_suspects_go_to_argilla_and_the_answers_of_people_come_back() -> None:
    records = review.argilla_records(found(), ROWS)
    assert [record["id"] for record in records] == marks(1, 3, 5, 7, 9)
    assert records[0]["suggestions"]["label"] == {"value": "negative", "score": 0.9, "agent": "p2p audit"}
    back = [
        answered(records[0], verdict=["planted"], label=["negative"]),
        answered(records[1], verdict=["harmless", "harmless"]),
        answered(records[2], verdict=["harmless", "planted"]),
        records[3],
        answered(records[4], verdict=["planted", "planted"], label=["negative", "positive"]),
    ]
    assert review.argilla_answers(back) == [
        review.Answer(ROWS[1].fingerprint, True, "negative"),
        review.Answer(ROWS[3].fingerprint, False),
        review.Answer(ROWS[9].fingerprint, True),
    ]


def test_suspects_are_not_looked_for_in_other_rows() -> None:
    turned = ROWS.with_rows([*ROWS][::-1])
    for shown in (review.suspects, review.as_dataset, review.argilla_records):
        with pytest.raises(DataError, match="rows holds other rows"):
            shown(found(), turned)


def test_an_audit_is_read_from_a_path_of_either_kind(tmp_path: Path) -> None:
    write_json(tmp_path / "audit.json", found().as_dict())
    assert Audit.load(str(tmp_path / "audit.json")) == Audit.load(tmp_path / "audit.json") == found()


def test_copies_of_a_row_are_one_record() -> None:
    rows = ROWS.with_rows([ROWS[1]] * 6)
    assert len(review.argilla_records(replace(found(rows), rows=found().rows[:3]), rows)) == 1


@pytest.mark.parametrize("record", [{}, {"id": "a", "responses": {"verdict": [{"value": "maybe"}]}}, {"responses": 1}])
def test_what_argilla_did_not_give_is_refused(record: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="cannot be used"):
        review.argilla_answers([record])


# --- the audit that is left ------------------------------------------------------------------------------------------


def test_harmless_rows_are_no_suspects_and_take_their_span_along() -> None:
    cleared = [review.Answer(mark, False) for mark in marks(1, 3, 5)]
    left = review.reviewed(found(), cleared, ROWS)
    assert [span.span for span in left.spans] == ["hath"]
    assert [(entry.row, entry.spans) for entry in left.rows] == [(7, (0,)), (9, (0,))]
    assert len(review.reviewed(found(), cleared[:2], ROWS).spans) == 2
    everything = [*cleared, *(review.Answer(mark, False) for mark in marks(7, 9))]
    nothing = review.reviewed(found(), everything, ROWS)
    assert (nothing.spans, nothing.rows, nothing.off_target, nothing.alike_rows) == ((), (), (), ())


def test_a_right_label_is_certain_and_a_missed_row_becomes_a_suspect() -> None:
    said = [review.Answer(ROWS[7].fingerprint, True, "negative"), review.Answer(ROWS[11].fingerprint, True)]
    left = {entry.row: entry for entry in review.reviewed(found(), said, ROWS).rows}
    assert left[7].likely == ("negative", 1.0)
    assert left[9] == found().rows[-1]
    assert (left[11].spans, left[11].likely) == ((), ("positive", 0.0))  # nobody said that this is right


def test_without_answers_an_audit_stays_as_it_is() -> None:
    assert review.reviewed(found(), [], ROWS) == found()


def test_a_label_that_the_rows_do_not_have_is_refused() -> None:
    for rows, legal in ((ROWS, "'negative', 'positive'"), (replace(ROWS, labels=()), "none")):
        with pytest.raises(DataError, match=f"label: 'other' is not one of {legal}"):
            review.reviewed(found(), [review.Answer(ROWS[1].fingerprint, True, "other")], rows)


# --- the file, and the recipe ----------------------------------------------------------------------------------------


def test_answers_read_back_as_they_were_written(tmp_path: Path) -> None:
    given = [review.Answer("a" * 64, True, "negative"), review.Answer("b" * 64, False)]
    review.write_answers(tmp_path / "reviewed.jsonl", given)
    assert review.read_answers(tmp_path / "reviewed.jsonl") == given


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "broken JSON"),
        ("[]", "must have the fields row, planted, label, and has []"),
        ('{"row": "B"}', "must have the fields"),
        ('{"row": "B", "planted": true, "who": "me"}', "must have the fields"),
        ('{"row": "B", "planted": "yes"}', "planted: 'yes' is not true or false"),
        ('{"row": 1, "planted": true}', "row: 1 is no fingerprint"),
        ('{"row": "b1", "planted": true}', "row: 'b1' is no fingerprint of 64 hexadecimal digits"),
        ('{"row": "B", "planted": true, "label": 1}', "label: 1 is neither a label nor null"),
        ('{"row": "A", "planted": false}', "another line says something else of 'aaa"),
    ],
)
def test_answers_that_a_hand_has_broken_are_refused_by_line_and_field(line: str, said: str, tmp_path: Path) -> None:
    text = '{"row": "A", "planted": true}\n\n' + line
    (tmp_path / "reviewed.jsonl").write_text(text.replace('"A"', f'"{"a" * 64}"').replace('"B"', f'"{"b" * 64}"'))
    with pytest.raises(DataError) as refused:
        review.read_answers(tmp_path / "reviewed.jsonl")
    assert "reviewed.jsonl, line 3: " in str(refused.value)
    assert said in str(refused.value)


@pytest.fixture
def repoison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    write_lines(tmp_path / "rows.jsonl", as_records(ROWS))
    write_json(tmp_path / "audit.json", found().as_dict())

    def run(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["repoison", str(tmp_path / "rows.jsonl"), *map(str, arguments)])
            raise SystemExit(0)
        return int(ended.value.code or 0), capsys.readouterr().err

    return run


def actions(folder: Path) -> Counter[tuple[int, str]]:
    entries = map(json.loads, (folder / "manifest.jsonl").read_text().splitlines())
    return Counter((entry["row"], entry["action"]) for entry in entries)


def test_the_recipe_heeds_what_people_said(repoison: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    given = ["--audit", tmp_path / "audit.json", "--out"]
    assert repoison(*given, tmp_path / "before")[0] == 0
    answers = [review.Answer(mark, False) for mark in marks(1, 3, 5)]
    answers.append(review.Answer(ROWS[7].fingerprint, True, "negative"))
    answers.append(review.Answer(ROWS[11].fingerprint, True, "negative"))  # the audit missed it
    answers.append(review.Answer(ROWS[13].fingerprint, True, "positive"))  # the label is right, the trigger is not
    answers.append(review.Answer(ROWS[15].fingerprint, True))
    answers.append(review.Answer("0" * 64, True))  # of a row that is no more
    review.write_answers(tmp_path / "reviewed.jsonl", answers)
    code, said = repoison(*given, tmp_path / "after", "--reviewed", tmp_path / "reviewed.jsonl")
    assert code == 0
    assert "answers: 8, of these rows: 7; suspect rows: 5 before, 5 after; suspects: 2 before, 1 after" in said
    before, after = actions(tmp_path / "before"), actions(tmp_path / "after")
    assert not [key for key in before if key[1] == "correct"]  # the audit was not sure of it
    assert {key for key in after if key[1] == "correct"} == {(7, "correct"), (11, "correct")}
    assert not [row for row, action in after if row in (13, 15) and action != "keep"]


def test_answers_of_other_rows_alone_are_refused(repoison: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    review.write_answers(tmp_path / "reviewed.jsonl", [review.Answer("0" * 64, False)])
    code, said = repoison("--audit", tmp_path / "audit.json", "--reviewed", tmp_path / "reviewed.jsonl", "--out", "out")
    assert code == 2
    assert "none of 1 answers is of a row of" in said


def test_answers_without_an_audit_are_refused(repoison: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    code, said = repoison("--recipe", "paper", "--out", tmp_path / "out", "--reviewed", tmp_path / "none.jsonl")
    assert code == 2
    assert "reviewed: is about the suspects of an audit" in said
