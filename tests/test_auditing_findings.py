"""What an audit found: `audit.json` loads back equal, and one that a hand has broken is refused by its field."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from poison2poison.auditing.findings import Audit, SuspectRow, SuspectSpan
from poison2poison.data import rows_of
from poison2poison.errors import DataError
from poison2poison.files import write_json
from poison2poison.report.run import suspect_records

SPAN = SuspectSpan("cf", "span", "positive", 20, 1.0, 9.0, {"learned": (2.0, 0.1), "told": (0.7, 0.02)})
STYLE = SuspectSpan("^ _ ,", "style cluster", "positive", 30, 0.5, 7.0)
FOUND = Audit(
    spans=(SPAN, STYLE),
    rows=(SuspectRow(1, 0.9, (0, 1), ("negative", 0.75)), SuspectRow(2, 0.25, (), ("positive", 0.5))),
    off_target=(3,),
    weak=(replace(SPAN, span="mn", score=2.0),),
    alike_rows=(0, 3),
    threshold=4.25,
    others=(replace(SPAN, span="thing", score=1.5), replace(SPAN, span="other", score=-1.0)),
    sha256="abc",
)


def loaded(content: Any, folder: Path) -> Audit:
    write_json(folder / "audit.json", content)
    return Audit.load(folder / "audit.json")


def as_written(found: Audit = FOUND) -> dict[str, Any]:
    """The content of the file, as JSON has it."""
    content: dict[str, Any] = json.loads(json.dumps(found.as_dict()))
    return content


def test_an_audit_loads_back_equal(tmp_path: Path) -> None:
    assert loaded(FOUND.as_dict(), tmp_path) == FOUND
    nothing = Audit((), (), (), (), (), 0.0, (), "abc")
    assert loaded(nothing.as_dict(), tmp_path) == nothing


@pytest.mark.parametrize(("schema", "said"), [(9, "schema 9, .* upgrade"), (2, "schema 2, .* make it again")])
def test_an_audit_of_another_version_is_refused(schema: int, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        loaded(as_written() | {"schema": schema}, tmp_path)


def test_what_is_no_audit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not an audit"):
        Audit.load(tmp_path / "missing.json")
    for content in ({}, {"schema": 4}, as_written() | {"suspect_spans": 7}):
        with pytest.raises(DataError, match="not an audit"):
            loaded(content, tmp_path)


@pytest.mark.parametrize(
    ("field", "entry", "said"),
    [
        ("suspect_spans", [], "row 1 has suspect 0 of 0"),  # deleted by hand
        ("suspect_spans", {"span": " "}, "both must be texts"),
        ("suspect_spans", {"target": 1}, "both must be texts"),
        ("suspect_spans", {"rows": 0}, "has 0 rows"),
        ("suspect_spans", {"kind": "word"}, "is a 'word', which is not one of"),
        ("suspect_spans", {"kind": "form"}, "the form .* is not one of"),
        ("suspect_spans", {"score": "9"}, "has score '9'"),
        ("suspect_spans", {"colour": "red"}, "colour"),
        ("weak_findings", {"purity": None}, "weak_findings: .* purity None"),
        ("others", {"score": None}, "others: .* has score None"),
        ("suspect_rows", {"row": "5"}, "suspect_rows: '5' is no row"),
        ("suspect_rows", {"spans": [-1]}, "row 1 has suspect -1 of 2"),
        ("suspect_rows", {"likely": ["positive"]}, "not enough values"),
        ("suspect_rows", {"likely": ["positive", "0.9"]}, "is likely 'positive' with p '0.9'"),
        ("off_target_rows", [-1], "off_target_rows: -1 is no row"),
        ("alike_rows", [0.5], "alike_rows: 0.5 is no row"),
        ("threshold", "4.1", "threshold: '4.1' is no number"),
    ],
)
def test_an_audit_that_a_hand_has_broken_is_refused(field: str, entry: Any, said: str, tmp_path: Path) -> None:
    content = as_written()
    if isinstance(entry, dict):
        content[field][0] |= entry
    else:
        content[field] = entry
    with pytest.raises(DataError, match=f"not an audit .*{said}"):
        loaded(content, tmp_path)


def test_suspect_rows_are_written_for_a_reader() -> None:
    rows = rows_of([{"text": f"a cf film {i}", "label": "positive"} for i in range(4)], "memory")
    first, second = suspect_records(FOUND, rows)
    assert first == {
        "row": 1, "fingerprint": rows[1].fingerprint, "prompt": "a cf film 1", "target": "positive",
        "suspects": ["cf", "^ _ ,"], "score": 0.9, "likely": "negative", "p_likely": 0.75,
    }  # fmt: skip
    assert (second["row"], second["suspects"]) == (2, [])
