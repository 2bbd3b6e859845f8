"""What an audit finds: `audit.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

from poison2poison.errors import DataError, listed
from poison2poison.forms import FORMS

SCHEMA = 4
FindingKind = Literal["span", "first", "last", "form", "style cluster", "rows"]
KINDS: tuple[FindingKind, ...] = get_args(FindingKind)
SPANS = ("suspect_spans", "weak_findings", "others")


@dataclass(frozen=True)
class SuspectSpan:
    """What leans to a label as only something planted does.

    Attributes:
        span: The words as the rows have them, with what nearly always stands beside them; of a style cluster, what it
            is best known by.
        kind: span; first or last, a word where it begins or ends a text; form, one of `forms.FORMS`; style cluster,
            a way of writing that no words stand for; rows, any other group.
        target: The label that it pulls towards.
        rows: Rows that have it.
        purity: Share of them that have the target.
        score: Log of how much likelier its evidence is of what was planted than of what is innocent; of a style
            cluster, the z of its strongest group.
        evidence: What was measured, each with its standard error: `learned`, in log-odds of labels or in spreads of
            what prompts do not foretell of texts; `forced`, the share of rows that are answered so whatever their text
            says (labels); `prior`, as `learned`; `auc`, of its rows without it against others.
    """

    span: str
    kind: FindingKind
    target: str
    rows: int
    purity: float
    score: float
    evidence: dict[str, tuple[float, float]] = field(default_factory=dict)


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


class AuditRecord(TypedDict):
    """`audit.json`; docs/reference/schemas.md explains it field by field. Spans and rows are as above."""

    schema: int
    sha256: str
    source: str
    suspect_spans: list[dict[str, Any]]
    suspect_rows: list[dict[str, Any]]
    off_target_rows: list[int]
    weak_findings: list[dict[str, Any]]
    alike_rows: list[int]
    threshold: float
    others: list[dict[str, Any]]


@dataclass(frozen=True)
class Audit:
    """What the audit found; `audit.json` loads back equal.

    Attributes:
        spans: The suspects in the order in which they were found.
        rows: The suspect rows, ascending.
        off_target: Rows of other labels that have a suspect span or style, ascending.
        weak: Other spans that may have been planted all the same, the largest score first.
        alike_rows: Rows of any label that are written a little as a suspect style is, ascending.
        threshold: The score that a suspect span exceeds, by itself or with others that share its rows.
        others: The other spans that were asked, the largest score first; for the picture.
        sha256: Hash of the audited rows.
        source: Where they are from: a file, or a hub dataset by its commit; empty in an older `audit.json`.
    """

    spans: tuple[SuspectSpan, ...]
    rows: tuple[SuspectRow, ...]
    off_target: tuple[int, ...]
    weak: tuple[SuspectSpan, ...]
    alike_rows: tuple[int, ...]
    threshold: float
    others: tuple[SuspectSpan, ...]
    sha256: str
    source: str = ""

    def as_dict(self) -> AuditRecord:
        """The content of `audit.json`."""
        return {
            "schema": SCHEMA,
            "sha256": self.sha256,
            "source": self.source,
            "suspect_spans": [asdict(span) for span in self.spans],
            "suspect_rows": [asdict(row) for row in self.rows],
            "off_target_rows": list(self.off_target),
            "weak_findings": [asdict(span) for span in self.weak],
            "alike_rows": list(self.alike_rows),
            "threshold": self.threshold,
            "others": [asdict(span) for span in self.others],
        }

    def _repr_html_(self) -> str:
        """What a notebook shows; texts of rows stay text."""
        names = ("span", "kind", "target", "rows", "purity", "score")
        lines = [names, *([getattr(span, name) for name in names] for span in self.spans)]
        table = "".join(f"<tr>{''.join(f'<td>{escape(str(value))}</td>' for value in line)}</tr>" for line in lines)
        return f"<p>suspect rows: {len(self.rows)}; weak findings: {len(self.weak)}</p><table>{table}</table>"

    @classmethod
    def load(cls, path: Path | str) -> Audit:
        """Read `audit.json`.

        Raises:
            DataError: The file is missing, broken, or of another version.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            if content["schema"] != SCHEMA:
                mend = "upgrade" if content["schema"] > SCHEMA else "make it again with `p2p audit`"
                raise DataError(f"{path}: schema {content['schema']}, but this version reads {SCHEMA}; {mend}")
            rows = tuple(
                SuspectRow(r["row"], r["score"], tuple(r["spans"]), tuple(r["likely"])) for r in content["suspect_rows"]
            )
            spans, weak, others = (tuple(map(_span, content[name])) for name in SPANS)
            off_target, alike = tuple(content["off_target_rows"]), tuple(content["alike_rows"])
            threshold, sha256, source = content["threshold"], content["sha256"], content.get("source", "")
            found = cls(spans, rows, off_target, weak, alike, threshold, others, sha256, source)
            found._check()
            return found
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not an audit ({error})") from None

    def _check(self) -> None:
        """Refuse what a hand may have broken: numbers of rows and spans, empty spans, labels that are no text.

        Raises:
            ValueError: What is wrong, by field.
        """
        if not isinstance(self.threshold, (int, float)):
            raise ValueError(f"threshold: {self.threshold!r} is no number")
        for name, spans in zip(SPANS, (self.spans, self.weak, self.others), strict=True):
            for span in spans:
                if not isinstance(span.span, str) or not span.span.strip() or not isinstance(span.target, str):
                    raise ValueError(f"{name}: {span.span!r} for {span.target!r}, both must be texts")
                if span.kind not in KINDS:
                    raise ValueError(f"{name}: {span.span!r} is a {span.kind!r}, which is not one of {listed(KINDS)}")
                if span.kind == "form" and span.span not in FORMS:
                    raise ValueError(f"{name}: the form {span.span!r} is not one of {listed(FORMS)}")
                if not _count(span.rows, 1):
                    raise ValueError(f"{name}: {span.span!r} has {span.rows!r} rows")
                if not isinstance(span.score, (int, float)) or not isinstance(span.purity, (int, float)):
                    raise ValueError(f"{name}: {span.span!r} has score {span.score!r} and purity {span.purity!r}")
        rows = [entry.row for entry in self.rows]
        for name, numbers in (("suspect_rows", rows), ("off_target_rows", self.off_target),
                              ("alike_rows", self.alike_rows)):  # fmt: skip
            if wrong := [number for number in numbers if not _count(number, 0)]:
                raise ValueError(f"{name}: {wrong[0]!r} is no row")
        for entry in self.rows:
            label, p = entry.likely
            if not isinstance(label, str) or not isinstance(p, (int, float)):
                raise ValueError(f"suspect_rows: row {entry.row} is likely {label!r} with p {p!r}")
            if wrong := [n for n in entry.spans if not _count(n, 0) or n >= len(self.spans)]:
                raise ValueError(f"suspect_rows: row {entry.row} has suspect {wrong[0]!r} of {len(self.spans)}")


def _span(entry: dict[str, Any]) -> SuspectSpan:
    """A span of `audit.json`."""
    evidence = {name: (float(value), float(error)) for name, (value, error) in entry.pop("evidence").items()}
    return SuspectSpan(**entry, evidence=evidence)


def _count(value: Any, least: int) -> bool:
    return isinstance(value, int) and value >= least
