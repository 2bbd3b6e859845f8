"""What the reference model can do: plain LoRA fine-tuning on the clean rows of each reference task, measured.

python benchmarks/reference_model.py --out runs/reference-model        # about ten minutes on two cores

Prints the table of the model card. Run again, it goes on where it was.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from poison2poison.config import TrainConfig
from poison2poison.evaluation import describe, measure, results, write_results
from poison2poison.model.defended import DefendedModel
from poison2poison.model.trainer import train
from poison2poison.recipe.manifest import plain
from poison2poison.recipe.scheme import Scheme
from poison2poison.reference import TASKS, reference_rows

SETTINGS = TrainConfig(batch_size=32, learning_rate=3e-3)  # of the model card


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=list(TASKS), help="all of them if none is named")
    parser.add_argument("--out", type=Path, default=Path("runs/reference-model"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    lines = ["| task | CA | ROUGE-L | training, s |", "|---|---|---|---|"]
    for task in args.tasks:
        splits = reference_rows(task)
        rows, folder, config = splits["train"], args.out / f"{task}-{args.seed}", replace(SETTINGS, seed=args.seed)
        run = train(plain(rows), Scheme(rows.task, rows.labels), config, folder, dev=splits["dev"])
        arm = measure("undefended", DefendedModel.load(folder), splits["test"], None, None)
        whole = run["resumed_from"] is None
        arm.training = {key: run[key] for key in ("train_seconds", "peak_memory_mib") if whole}
        content = results("reference_model", task, config.model, args.seed, describe(**splits), [arm])
        write_results(folder, content, [arm])
        seconds = f"{run['train_seconds']:.0f}" if whole else "interrupted"
        ca = arm.rates.get("ca")
        known = f"{100 * ca.value:.1f} [{100 * ca.low:.1f}, {100 * ca.high:.1f}]" if ca else ""
        rouge = f"{100 * arm.utility['rouge_l'].value:.1f}" if "rouge_l" in arm.utility else ""
        lines.append(f"| {task} | {known} | {rouge} | {seconds} |")
        print(lines[-1], flush=True)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
