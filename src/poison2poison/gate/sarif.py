"""Findings as SARIF 2.1.0 (OASIS, docs.oasis-open.org/sarif/sarif/v2.1.0), by the library sarif-pydantic.

Each finding is a rule, each of its rows a result: with file and line where the rows were read from a file of lines, and
with the number of the row everywhere. Accepted rows are suppressed, for the reason that was given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sarif_pydantic import (
    ArtifactLocation,
    Level,
    Location,
    LogicalLocation,
    Message,
    PhysicalLocation,
    Region,
    ReportingConfiguration,
    ReportingDescriptor,
    Result,
    Run,
    Sarif,
    Tool,
    ToolDriver,
)
from sarif_pydantic.sarif import Suppression

from poison2poison.data import Rows
from poison2poison.gate.baseline import Accepted
from poison2poison.gate.findings import GateFinding, Judged

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
METHOD = "https://arxiv.org/abs/2510.04503"
LEVELS = {"suspect": Level.ERROR, "weak": Level.NOTE}
TAGS = ["security", "data-poisoning", "AML.T0020"]
"""AML.T0020 is "Poison Training Data" in MITRE ATLAS."""
HELP = "Read these rows. Remove what was planted, train with a defence (`p2p defend`), or accept what is harmless."
ESCAPED = str.maketrans({"[": r"\[", "]": r"\]", "{": "{{", "}": "}}"})
"""Links and placeholders of messages (SARIF 2.1.0, 3.11.5 and 3.11.6), which texts of rows must not become."""


def sarif(judged: Judged, rows: Rows, accepted: Sequence[Accepted] = ()) -> str:
    """The content of a SARIF file.

    Args:
        judged: What the gate made of the audit.
        rows: The audited rows.
        accepted: The rows that do not block, for their reasons.
    """
    reasons = {one.row: one.reason for one in accepted}
    locations = _Locations(rows)
    results = []
    for number, one in enumerate(judged.findings):
        for i in one.rows:
            more = _state(i, one, judged, reasons.get(rows[i].fingerprint))
            results.append(_result(number, one, rows[i].fingerprint, locations.of(i), more))
    driver = ToolDriver(
        name="poison2poison",
        version=metadata.version("poison2poison"),
        information_uri=METHOD,
        rules=[_rule(one) for one in judged.findings],
    )
    about = {"rows": len(rows), "sha256": rows.sha256}
    run = Run(tool=Tool(driver=driver), results=results, properties=about)
    log = Sarif(schema_uri=SCHEMA, runs=[run])
    content: str = log.model_dump_json(by_alias=True, exclude_none=True, indent=2)
    return content + "\n"


def _id(finding: GateFinding) -> str:
    """The same for the same finding of every audit."""
    digest = hashlib.sha256(finding.title.encode()).hexdigest()[:12]
    kind = finding.span.kind if finding.span else "answer"
    return f"{finding.level}-{kind.replace(' ', '-')}-{digest}"


def _rule(finding: GateFinding) -> ReportingDescriptor:
    return ReportingDescriptor(
        id=_id(finding),
        short_description=_message(finding.title),
        full_description=_message(f"{finding.title}: {finding.evidence}"),
        help=_message(HELP),
        help_uri=METHOD,
        default_configuration=ReportingConfiguration(level=LEVELS[finding.level].value),
        properties={"tags": TAGS},
    )


def _result(number: int, finding: GateFinding, fingerprint: str, location: Location, more: Mapping[str, Any]) -> Result:
    return Result(
        rule_id=_id(finding),
        rule_index=number,
        level=LEVELS[finding.level],
        message=_message(f"This row has what looks planted: {finding.title}. {finding.evidence}."),
        locations=[location],
        partial_fingerprints={"row/v1": fingerprint},
        **more,
    )


def _state(row: int, finding: GateFinding, judged: Judged, reason: str | None) -> dict[str, Any]:
    """What the library has no field for: whether a row is new, and whether it was accepted."""
    more: dict[str, Any] = {}
    if judged.added is not None:
        more["baselineState"] = "new" if row in judged.added else "unchanged"
    if reason is not None and row not in finding.open:
        more["suppressions"] = [Suppression(kind="external", status="accepted", justification=reason)]
    return more


def _message(text: str) -> Message:
    return Message(text=text.translate(ESCAPED))


class _Locations:
    """Where rows stand, as SARIF has it."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.uris: dict[str, str | None] = {}

    def of(self, row: int) -> Location:
        """File and line, or the file alone, or neither; and the number of the row."""
        if not self.rows.places:
            return Location(logical_locations=[LogicalLocation(name=f"row {row}")])
        place = self.rows.places[row]
        logical = LogicalLocation(name=f"row {row}", fully_qualified_name=str(place))
        uri = self._uri(place.source)
        if uri is None:
            return Location(logical_locations=[logical])
        region = None if place.line is None else Region(start_line=place.line)
        physical = PhysicalLocation(artifact_location=ArtifactLocation(uri=uri), region=region)
        return Location(physical_location=physical, logical_locations=[logical])

    def _uri(self, source: str) -> str | None:
        """A file's address, from the working folder on where it lies there; None for a hub dataset."""
        if source not in self.uris:
            path = Path(source).resolve()
            inside = path.is_relative_to(Path.cwd())
            uri = quote(path.relative_to(Path.cwd()).as_posix()) if inside else path.as_uri()
            self.uris[source] = uri if path.is_file() else None
        return self.uris[source]
