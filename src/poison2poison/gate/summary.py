"""Findings as Markdown, for a job's page such as that of GITHUB_STEP_SUMMARY."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence

from poison2poison.data import Rows
from poison2poison.errors import SHOWN
from poison2poison.gate.findings import Judged

SIGN = re.compile(f"([{re.escape(string.punctuation)}])")
TO_DO = """
Open rows are neither accepted nor known from before.

1. Read them. Remove what was planted, and ask where it came from.
2. Or keep them, and train with a defence: `p2p defend`, or `p2p repoison --audit`.
3. Or accept what is harmless: run the audit again with `--baseline FILE --accept "the reason"`.
"""


def summary(judged: Judged, rows: Rows) -> str:
    """A page of Markdown.

    Args:
        judged: What the gate made of the audit.
        rows: The audited rows.
    """
    return "\n".join([*_head(judged, rows), *_findings(judged), *_open_rows(judged, rows)]) + "\n"


def _head(judged: Judged, rows: Rows) -> Iterator[str]:
    verdict = "blocked" if judged.blocking else "passed"
    counts = {
        "rows": len(rows),
        "added": None if judged.added is None else len(judged.added),
        "findings": len(judged.findings),
        "findings that block": len(judged.blocking),
        "rows with findings": sum(len(one.rows) for one in judged.findings),
        "open rows": sum(len(one.open) for one in judged.findings),
    }
    yield f"## Audit of {_text(rows.source)}: {verdict}"
    yield ""
    yield "; ".join(f"{name}: {count}" for name, count in counts.items() if count is not None)
    yield ""


def _findings(judged: Judged) -> Iterator[str]:
    if not judged.findings:
        yield "No findings."
        return
    yield from _table(
        ("finding", "level", "rows", "open", "evidence"),
        [[one.title, one.level, len(one.rows), len(one.open), one.evidence] for one in judged.findings],
    )


def _open_rows(judged: Judged, rows: Rows) -> Iterator[str]:
    held = [[i, rows.places[i] if rows.places else "", one.title] for one in judged.findings for i in one.open]
    if not held:
        return
    yield ""
    yield f"### Open rows ({len(held)}, the first {min(SHOWN, len(held))} here)"
    yield ""
    yield from _table(("row", "place", "finding"), held[:SHOWN])
    yield TO_DO.rstrip()


def _table(names: Sequence[str], lines: Sequence[Sequence[object]]) -> Iterator[str]:
    for line in (names, ["---"] * len(names)):
        yield f"| {' | '.join(line)} |"
    for values in lines:
        yield f"| {' | '.join(_text(str(value)) for value in values)} |"


def _text(text: str) -> str:
    """Text that stays text: an attacker's would become links, images or other columns."""
    return SIGN.sub(r"\\\1", " ".join(text.split()))
