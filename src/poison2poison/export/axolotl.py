"""Axolotl: rows with `input_ids`, `attention_mask` and `labels`, which it takes for tokenised ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from poison2poison.export.base import EXPORTERS, Export, Exporter, write_settings
from poison2poison.files import write_lines

EXPLAINED = """axolotl train axolotl.yaml
The rows are tokens already, so `type` stays empty. A row longer than sequence_len would be dropped without an error,
but for excess_length_strategy.
The numbers are those that poison2poison would train with."""


@EXPORTERS.register("axolotl")
class Axolotl(Exporter):
    """rows/train.jsonl and axolotl.yaml."""

    def write(self, export: Export, folder: Path) -> None:
        masked = ({**example, "attention_mask": [1] * len(example["input_ids"])} for example in export.examples)
        write_lines(folder / "rows" / "train.jsonl", masked)
        training = export.training
        settings: dict[str, Any] = {"base_model": export.base}
        if training.revision:
            settings["revision_of_model"] = training.revision
        settings |= {
            "datasets": [{"path": str(export.out / "rows" / "train.jsonl"), "ds_type": "json", "type": None}],
            "dataset_prepared_path": str(export.out / "prepared"),
            "output_dir": str(export.out / "trained"),
            "sequence_len": export.longest,
            "excess_length_strategy": "raise",
            "sample_packing": False,
            "pad_to_sequence_len": False,
            "train_on_inputs": False,
            "val_set_size": 0,
            "num_epochs": training.epochs,
            "micro_batch_size": training.batch_size,
            "gradient_accumulation_steps": 1,
            "learning_rate": training.learning_rate,
            "optimizer": "adamw_torch",
            "lr_scheduler": "linear",
            "warmup_steps": export.warmup_steps,
            "bf16": "auto",
            "seed": training.seed,
            "gradient_checkpointing": training.gradient_checkpointing,
        }
        if training.tuning == "lora":
            settings |= {
                "adapter": "lora",
                "lora_r": training.lora_r,
                "lora_alpha": training.lora_alpha,
                "lora_dropout": training.lora_dropout,
                "lora_target_modules": export.lora_layers,
            }
        write_settings(folder / "axolotl.yaml", settings, EXPLAINED)
