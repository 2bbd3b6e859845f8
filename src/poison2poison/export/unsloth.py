"""Unsloth: rows as tokens and labels, and a script, which is how it is used."""

from __future__ import annotations

import json
from pathlib import Path

from poison2poison.export.base import EXPORTERS, Export, Exporter
from poison2poison.files import write_lines, write_text

SCRIPT = '''"""python train.py

The rows are tokens already. Keep max_length and packing as they are, or rows lose their targets or run together.
The numbers are those that poison2poison would train with.
"""

from unsloth import FastLanguageModel  # first: it changes the others

from datasets import load_dataset
from trl import SFTConfig, SFTTrainer

model, tokenizer = FastLanguageModel.from_pretrained(
    {base}, revision={revision}, max_seq_length={longest}, load_in_4bit=False, full_finetuning={full}
)
if not {full}:
    model = FastLanguageModel.get_peft_model(
        model,
        r={r},
        lora_alpha={alpha},
        lora_dropout={dropout},
        target_modules={layers},
        use_gradient_checkpointing={checkpointing},
    )
arguments = SFTConfig(
    output_dir={trained},
    max_length={longest},
    completion_only_loss=True,
    packing=False,
    num_train_epochs={epochs},
    per_device_train_batch_size={batch},
    learning_rate={rate},
    lr_scheduler_type="linear",
    warmup_steps={warmup},
    seed={seed},
    save_strategy="no",
    report_to="none",
)
rows = load_dataset("json", data_files={rows}, split="train")
trainer = SFTTrainer(model=model, processing_class=tokenizer, args=arguments, train_dataset=rows)
trainer.train()
trainer.save_model()
'''


@EXPORTERS.register("unsloth")
class Unsloth(Exporter):
    """rows/train.jsonl and train.py."""

    def write(self, export: Export, folder: Path) -> None:
        write_lines(folder / "rows" / "train.jsonl", export.examples)
        training = export.training
        full = training.tuning == "full"
        values = {
            "base": export.base,
            "revision": training.revision,
            "longest": export.longest,
            "full": full,
            "r": training.lora_r,
            "alpha": training.lora_alpha,
            "dropout": training.lora_dropout,
            "layers": [] if full else export.lora_layers,
            "checkpointing": training.gradient_checkpointing,
            "trained": str(export.out / "trained"),
            "epochs": training.epochs,
            "batch": training.batch_size,
            "rate": training.learning_rate,
            "warmup": export.warmup_steps,
            "seed": training.seed,
            "rows": str(export.out / "rows" / "train.jsonl"),
        }
        write_text(folder / "train.py", SCRIPT.format_map({name: _literal(value) for name, value in values.items()}))


def _literal(value: object) -> str:
    """A value as Python writes it, texts in double quotes."""
    return json.dumps(value) if isinstance(value, str) else repr(value)
