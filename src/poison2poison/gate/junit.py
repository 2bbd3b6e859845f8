"""Findings as JUnit XML, by junitparser: each is a test of the rows, which fails where the finding blocks."""

from __future__ import annotations

from junitparser import Failure, JUnitXml, TestCase, TestSuite

from poison2poison.data import Rows
from poison2poison.errors import SHOWN, more
from poison2poison.gate.findings import GateFinding, Judged


def junit(judged: Judged, rows: Rows) -> str:
    """The content of a JUnit file.

    Args:
        judged: What the gate made of the audit.
        rows: The audited rows.
    """
    source = _printable(rows.source)
    suite = TestSuite(f"p2p audit of {source}")
    for one in judged.findings:
        case = TestCase(f"{one.level}: {one.title}", classname=source)
        if one in judged.blocking:
            case.result = [_failure(one, rows)]
        suite.add_testcase(case)
    if not judged.findings:
        suite.add_testcase(TestCase("no findings", classname=source))
    file = JUnitXml()
    file.add_testsuite(suite)
    content: bytes = file.tostring()
    return content.decode("utf-8") + "\n"


def _failure(finding: GateFinding, rows: Rows) -> Failure:
    failure = Failure(f"open rows: {len(finding.open)}", finding.level)
    named = [str(rows.places[i]) if rows.places else f"row {i}" for i in finding.open[:SHOWN]]
    failure.text = _printable(f"{finding.evidence}; {', '.join(named)}{more(len(finding.open))}")
    return failure


def _printable(text: str) -> str:
    """Text without what XML cannot hold, such as control characters of a file's name."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
