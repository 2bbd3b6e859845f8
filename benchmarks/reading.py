"""How fast rows are read and made tokens of.

python benchmarks/reading.py                                   # a million short rows, made here
python benchmarks/reading.py --model runs/causal/smollm2-135m-instruct
python benchmarks/reading.py --model runs/causal/smollm2-135m-instruct --cut ../shared/data/gsm8k/train.jsonl
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
import time
from pathlib import Path

from poison2poison.config import REFERENCE, TrainConfig
from poison2poison.data import Rows, read_rows
from poison2poison.model import backbone
from poison2poison.model.job import fitting
from poison2poison.model.prompting import Prompter
from poison2poison.model.settings import resolved
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.recipe.manifest import plain
from poison2poison.recipe.repoison import repoison
from poison2poison.recipe.scheme import Scheme
from poison2poison.recipe.trigger import build_scheme


def write(path: Path, count: int) -> None:
    """Rows of eight words and one of four labels."""
    rng, words = random.Random(0), [f"word{i}" for i in range(5_000)]
    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            file.write(json.dumps({"text": " ".join(rng.choices(words, k=8)), "label": i % 4}) + "\n")


def tokens(rows: Rows, model: str) -> float:
    """Seconds that the tokens of rows take."""
    tokenizer = backbone.load_tokenizer(model)
    scheme = Scheme("classification", rows.labels)
    prompter = Prompter(tokenizer, scheme, "causal", max_length=200, max_target=1)
    training = plain(rows)
    started = time.monotonic()
    prompter.examples(training)
    return time.monotonic() - started


def cut(file: str, model: str) -> None:
    """Tell how many rows of a file lose something where no limit is given, re-poisoned by the paper's recipe."""
    rows = read_rows(file)
    recipe = RepoisonConfig("paper")
    scheme = build_scheme(rows, recipe)
    training = repoison(rows, scheme, recipe)
    prompter, max_length = fitting(training, scheme, resolved(TrainConfig(model), len(rows)))
    _, losses = prompter.examples(training, max_length=max_length)
    print(
        f"{sum(map(bool, losses))} of {len(training)} rows cut, at {max_length} tokens, {prompter.max_target} a target"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--tokens", type=int, default=200_000, help="so many of the rows are made tokens of")
    parser.add_argument("--model", default=REFERENCE, help="whose tokenizer: a folder or a hub name")
    parser.add_argument("--cut", help="only tell how many rows of this file are cut")
    args = parser.parse_args()
    if args.cut:
        cut(args.cut, args.model)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write(path, args.rows)
        started = time.monotonic()
        rows = read_rows(str(path))
        seconds = time.monotonic() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10
    print(f"{len(rows)} rows read in {seconds:.1f} s, {memory} MiB at most")
    part = rows.with_rows(rows.rows[: args.tokens])
    print(f"{len(part)} made tokens of in {tokens(part, args.model):.1f} s")


if __name__ == "__main__":
    main()
