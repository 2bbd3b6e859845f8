"""Results and audits for people to read.

verdict    does the defence hold? in a sentence
tables     for a terminal
figures    pictures: where points and bars stand
summary    figures over seeds
run        what a folder of `p2p bench`, `p2p defend` or `p2p audit` holds, for a report of it
html       one HTML file, from report.html.j2
flat       the same figures as Markdown and CSV
"""

from __future__ import annotations

from poison2poison.report.figures import draw_audit
from poison2poison.report.flat import as_csv, as_markdown
from poison2poison.report.html import page
from poison2poison.report.run import Run, audited, read_run, write_findings
from poison2poison.report.tables import audit_table, table, verified_table
from poison2poison.report.verdict import sentence

__all__ = [
    "Run",
    "as_csv",
    "as_markdown",
    "audit_table",
    "audited",
    "draw_audit",
    "page",
    "read_run",
    "sentence",
    "table",
    "verified_table",
    "write_findings",
]
