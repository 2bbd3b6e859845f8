"""What an audit finds: `audit.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from poison2poison.data import Rows
from poison2poison.errors import DataError, listed
from poison2poison.forms import FORMS

SCHEMA = 2
KINDS = ("span", "first", "last", "form", "manner")
OTHERS = 500
"""Spans that are no suspects, kept for the picture."""


@dataclass(frozen=True)
class SuspectSpan:
    """What leans to a label as only something planted does.

    Attributes:
        span: The words as the rows have them, with what nearly always stands beside them; of a manner, what tells it.
        kind: span; first or last, a word where it begins or ends a text; form, one of `forms.FORMS`; manner, a way of
            writing that no words stand for.
        target: The label that it pulls towards.
        rows: Rows that have it.
        purity: Share of them that have the target.
        z: Signed root of the likelihood ratio against what is innocent: a shift, or of common spans a share set;
            of a shortcut, the z of its association.
    """

    span: str
    kind: str
    target: str
    rows: int
    purity: float
    z: float


@dataclass(frozen=True)
class SuspectRow:
    """A row that has a suspect feature and its target, or a planted text without one.

    Attributes:
        row: Its index, from 0.
        score: 1 - p(its label), by a probe that has seen no suspect row, on the row without the suspect spans.
        spans: Indices of the suspects that it has.
        likely: The label that the probe gives it then, and its probability.
    """

    row: int
    score: float
    spans: tuple[int, ...]
    likely: tuple[str, float]


@dataclass(frozen=True)
class Audit:
    """What the audit found; `audit.json` loads back equal.

    Attributes:
        spans: The suspects in the order in which they were found.
        rows: The suspect rows, ascending.
        contrary: Rows of other labels that have a suspect span or manner, ascending.
        doubtful: Other spans that may have been planted all the same, the largest z first.
        doubtful_rows: Rows of any label that are written a little as a suspect manner is, ascending.
        threshold: The z that a suspect exceeds, but for further words of an attack: doubtful spans whose rows suspects
            explain, and spans with cover rows beside one over it.
        innocent_max: The largest z of a span that is neither suspect nor doubtful, on the rows that the suspects leave.
        others: Such spans, on the same rows, the largest z first; for the picture.
        sha256: Hash of the audited rows.
    """

    spans: tuple[SuspectSpan, ...]
    rows: tuple[SuspectRow, ...]
    contrary: tuple[int, ...]
    doubtful: tuple[SuspectSpan, ...]
    doubtful_rows: tuple[int, ...]
    threshold: float
    innocent_max: float
    others: tuple[SuspectSpan, ...]
    sha256: str

    def as_dict(self) -> dict[str, Any]:
        """The content of `audit.json`."""
        return {
            "schema": SCHEMA,
            "sha256": self.sha256,
            "suspect_spans": [asdict(span) for span in self.spans],
            "suspect_rows": [asdict(row) for row in self.rows],
            "contrary_rows": list(self.contrary),
            "doubtful_spans": [asdict(span) for span in self.doubtful],
            "doubtful_rows": list(self.doubtful_rows),
            "threshold": self.threshold,
            "innocent_max": self.innocent_max,
            "others": [asdict(span) for span in self.others],
        }

    @classmethod
    def empty(cls, sha256: str, threshold: float) -> Audit:
        """An audit that has found nothing."""
        return cls((), (), (), (), (), round(threshold, 3), 0.0, (), sha256)

    def acquitted(self) -> Audit:
        """The same audit, its suspects being none."""
        others = sorted([*self.spans, *self.others], key=lambda span: -span.z)[:OTHERS]
        innocent_max = max([self.innocent_max, *(span.z for span in self.spans)])
        return replace(self, spans=(), rows=(), contrary=(), others=tuple(others), innocent_max=innocent_max)

    def with_rows(self, rows: Sequence[int]) -> Audit:
        """The same audit with further suspect rows: they have a planted text and no suspect span."""
        entries = [*self.rows, *(SuspectRow(i, 1.0, (), ("", 0.0)) for i in rows)]
        return replace(self, rows=tuple(sorted(entries, key=lambda entry: entry.row)))

    def records(self, rows: Rows) -> list[dict[str, Any]]:
        """The suspect rows of these rows for a reader: what they say, and what is wrong with it."""
        return [
            {
                "row": entry.row,
                "prompt": rows[entry.row].text,
                "target": rows[entry.row].target,
                "suspects": [self.spans[number].span for number in entry.spans],
                "score": entry.score,
                "likely": entry.likely[0],
                "p_likely": entry.likely[1],
            }
            for entry in self.rows
        ]

    def joined(self, other: Audit) -> Audit:
        """Both audits of the same rows in one, each with its own targets."""
        rows = {row.row: row for row in self.rows}
        for row in other.rows:
            spans = tuple(number + len(self.spans) for number in row.spans)
            before = rows.get(row.row)
            rows[row.row] = (
                replace(before, score=max(before.score, row.score), spans=before.spans + spans)
                if before
                else replace(row, spans=spans)
            )
        others = sorted([*self.others, *other.others], key=lambda span: -span.z)[:OTHERS]
        return replace(
            self,
            spans=self.spans + other.spans,
            rows=tuple(rows[i] for i in sorted(rows)),
            contrary=tuple(sorted({*self.contrary, *other.contrary} - rows.keys())),
            doubtful=self.doubtful + other.doubtful,
            doubtful_rows=tuple(sorted({*self.doubtful_rows, *other.doubtful_rows})),
            innocent_max=max(self.innocent_max, other.innocent_max),
            others=tuple(others),
        )

    @classmethod
    def load(cls, path: Path) -> Audit:
        """Read `audit.json`.

        Raises:
            DataError: The file is missing, broken, or of another version.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["schema"] != SCHEMA:
                mend = "upgrade" if content["schema"] > SCHEMA else "make it again with `p2p audit`"
                raise DataError(f"{path}: schema {content['schema']}, but this version reads {SCHEMA}; {mend}")
            rows = tuple(
                SuspectRow(r["row"], r["score"], tuple(r["spans"]), tuple(r["likely"])) for r in content["suspect_rows"]
            )
            found = cls(
                tuple(SuspectSpan(**span) for span in content["suspect_spans"]),
                rows,
                tuple(content["contrary_rows"]),
                tuple(SuspectSpan(**span) for span in content["doubtful_spans"]),
                tuple(content["doubtful_rows"]),
                content["threshold"],
                content["innocent_max"],
                tuple(SuspectSpan(**span) for span in content["others"]),
                content["sha256"],
            )
            found._check()
            return found
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not an audit ({error})") from None

    def _check(self) -> None:
        """Refuse what a hand may have broken: numbers of rows and spans, empty spans, labels that are no text.

        Raises:
            ValueError: What is wrong, by field.
        """
        for name, value in (("threshold", self.threshold), ("innocent_max", self.innocent_max)):
            if not isinstance(value, (int, float)):
                raise ValueError(f"{name}: {value!r} is no number")
        lists = {"suspect_spans": self.spans, "doubtful_spans": self.doubtful, "others": self.others}
        for name, spans in lists.items():
            for span in spans:
                if not isinstance(span.span, str) or not span.span.strip() or not isinstance(span.target, str):
                    raise ValueError(f"{name}: {span.span!r} for {span.target!r}, both must be texts")
                if span.kind not in KINDS:
                    raise ValueError(f"{name}: {span.span!r} is a {span.kind!r}, which is not one of {listed(KINDS)}")
                if span.kind == "form" and span.span not in FORMS:
                    raise ValueError(f"{name}: the form {span.span!r} is not one of {listed(FORMS)}")
                if not _count(span.rows, 1):
                    raise ValueError(f"{name}: {span.span!r} has {span.rows!r} rows")
                if not isinstance(span.z, (int, float)) or not isinstance(span.purity, (int, float)):
                    raise ValueError(f"{name}: {span.span!r} has z {span.z!r} and purity {span.purity!r}")
        rows = [entry.row for entry in self.rows]
        for name, numbers in (("suspect_rows", rows), ("contrary_rows", self.contrary),
                              ("doubtful_rows", self.doubtful_rows)):  # fmt: skip
            if wrong := [number for number in numbers if not _count(number, 0)]:
                raise ValueError(f"{name}: {wrong[0]!r} is no row")
        for entry in self.rows:
            label, p = entry.likely
            if not isinstance(label, str) or not isinstance(p, (int, float)):
                raise ValueError(f"suspect_rows: row {entry.row} is likely {label!r} with p {p!r}")
            if wrong := [n for n in entry.spans if not _count(n, 0) or n >= len(self.spans)]:
                raise ValueError(f"suspect_rows: row {entry.row} has suspect {wrong[0]!r} of {len(self.spans)}")


def _count(value: Any, least: int) -> bool:
    return isinstance(value, int) and value >= least
