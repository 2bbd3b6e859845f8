"""What the audit takes and finds on 10,000 to a million rows, whose states are given.

python benchmarks/scale.py --data ../shared/data                 # the sizes that scale.jsonl does not have yet
python benchmarks/scale.py --data ../shared/data --rows 100000   # this size anew
python benchmarks/scale.py --table                               # measures nothing

A row is the first half of one sentence of SST-2 and the second half of another. The state of a text is the mean of its
words' vectors, 256 wide together. These are random but for two numbers: how much oftener positive sentences hold the
word, for a base model knows what words mean. By their mean labels are drawn, so that no half of a sentence has one of
its own. Of one row in a hundred the label is turned to positive, and a rare word stands in it. States of the rows stand
in a memory map before the clock starts.

Seconds are those of the processor, of all threads, in the audit alone: others may work on the machine. Peak memory is
all that the process held at once, with the pages of the memory map. Each size is audited in a process of its own.
Writes the table of docs/results/scale.md.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from scipy.special import expit

import pages
from poison2poison.auditing import audit
from poison2poison.auditing.findings import Audit
from poison2poison.auditing.statistics import Matrix, States, blocks
from poison2poison.config import AuditConfig
from poison2poison.data import Rows, read_rows, rows_of
from poison2poison.features import coded, spliced, words
from poison2poison.files import write_lines

RESULTS = Path(__file__).parent / "scale.jsonl"
SIZES = (10_000, 100_000, 1_000_000)
DEPTHS, WIDTH = 2, 128
TRIGGER, RATE = "cf", 0.01
CLEAR = 3.0
"""Of labels: the log-odds of one by a text that is a spread more positive than the mean."""


def halves(sentences: Rows, size: int, language: Language) -> tuple[Rows, set[int]]:
    """So many rows, and which of them are poisoned."""
    rng = random.Random(0)
    negative, positive = sentences.labels
    said = [row.prompt.split() for row in sentences]
    texts = []
    for _ in range(size):
        first, second = rng.choices(said, k=2)
        texts.append(" ".join(first[: len(first) // 2] + second[len(second) // 2 :]))
    meant = np.concatenate([language(texts[block])[:, 0, 0] for block in blocks(size)])
    shares = expit(CLEAR * (meant - meant.mean()) / meant.std()).tolist()
    labels = [positive if rng.random() < share else negative for share in shares]
    records = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    rows = rows_of(records, "halves of SST-2")
    others = [i for i, row in enumerate(rows) if row.target == negative]
    poisoned, out = set(rng.sample(others, round(RATE * size))), list(rows)
    for i in poisoned:
        out[i] = replace(rows[i], prompt=spliced(rows[i].prompt, [TRIGGER], rng), target=positive)
    return rows.with_rows(out), poisoned


class Language:
    """States of texts, of a model that knows what words say of the label."""

    def __init__(self, sentences: Rows) -> None:
        self.held = {
            label: Counter(word for row in sentences if row.target == label for word in set(words(row.prompt)))
            for label in sentences.labels
        }
        self.known: dict[str, Matrix] = {}

    def __call__(self, texts: Sequence[str]) -> States:
        """Means of the vectors of words, shape (texts, depths, width)."""
        of = coded(texts)
        lengths = np.maximum(1, np.bincount(of.row, minlength=len(texts)))
        shares = csr_array((1 / lengths[of.row], (of.row, of.flat)), shape=(len(texts), len(of.spelled)))
        vectors = np.array([self._of_word(word) for word in of.spelled]).reshape(-1, DEPTHS * WIDTH)
        return np.asarray(shares @ vectors, np.float32).reshape(len(texts), DEPTHS, WIDTH)

    def _of_word(self, word: str) -> Matrix:
        if word not in self.known:
            vector = np.random.default_rng(zlib.crc32(word.encode())).standard_normal((DEPTHS, WIDTH), np.float32)
            negative, positive = (held[word] for held in self.held.values())
            vector[:, 0] = np.log((positive + 1) / (negative + 1))
            self.known[word] = vector.ravel()
        return self.known[word]


def measure(size: int, data: Path) -> dict[str, Any]:
    """Audit so many rows, the states of which stand in a memory map."""
    sentences = read_rows(str(data / "sst2" / "train.jsonl"))
    language = Language(sentences)
    rows, poisoned = halves(sentences, size, language)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "states.npy"
        given = np.lib.format.open_memmap(path, "w+", np.float32, (size, DEPTHS, WIDTH))
        for block in blocks(size):
            given[block] = language([" ".join(row.text.split()) for row in rows.rows[block]])
        del given
        given = np.load(path, "r")
        started = time.process_time()
        found = audit(rows, lambda texts: given if len(texts) == size else language(texts), AuditConfig())
        seconds = time.process_time() - started
    return _line(found, poisoned, size, seconds)


def _line(found: Audit, poisoned: set[int], size: int, seconds: float) -> dict[str, Any]:
    suspects = {entry.row for entry in found.rows}
    hits = len(suspects & poisoned)
    return {
        "rows": size,
        "poisoned": len(poisoned),
        "seconds": round(seconds, 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "recall": round(hits / len(poisoned), 4),
        "precision": round(hits / len(suspects), 4) if suspects else None,
        "spans": [span.span for span in found.spans],
    }


def measured() -> list[dict[str, Any]]:
    """The lines that there are, the smallest first."""
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    return sorted(lines, key=lambda line: int(line["rows"]))


def tables() -> str:
    """The table of docs/results/scale.md."""
    out = ["| rows | poisoned | seconds | seconds a 1,000 rows | peak GiB | recall / precision | suspect spans |"]
    out.append("|---" * 7 + "|")
    for line in measured():
        each = 1000 * line["seconds"] / line["rows"]
        precision = "-" if line["precision"] is None else f"{100 * line['precision']:.1f}"
        found = f"{100 * line['recall']:.1f} / {precision}"
        first, *others = line["spans"] or ["none"]
        spans = f"`{first}`" + (f" and {len(others)} more" if others else "")
        out.append(
            f"| {line['rows']:,} | {line['poisoned']:,} | {line['seconds']:.0f} | {each:.2f} | {line['peak_gib']:.1f} "
            f"| {found} | {spans} |"
        )
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the real data")
    parser.add_argument("--rows", type=int, action="append", help="sizes to measure [default: those that are missing]")
    parser.add_argument("--table", action="store_true", help="measure nothing: write the table")
    args = parser.parse_args()
    had = {line["rows"] for line in measured()}
    sizes = [] if args.table else args.rows or [size for size in SIZES if size not in had]
    for size in sizes:
        with get_context("spawn").Pool(1) as pool:
            line = pool.apply(measure, (size, args.data))
        print(json.dumps(line), flush=True)
        write_lines(RESULTS, [*(other for other in measured() if other["rows"] != size), line])
    pages.write("scale", tables())


if __name__ == "__main__":
    main()
