"""TRL: rows as tokens and labels, which `SFTTrainer` takes as they are, and the settings for `trl sft`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from poison2poison.export.base import EXPORTERS, Export, Exporter, write_settings
from poison2poison.files import write_lines

EXPLAINED = """trl sft --config sft.yaml
The rows are tokens already. Keep max_length and packing as they are, or rows lose their targets or run together.
The numbers are those that poison2poison would train with."""


@EXPORTERS.register("trl")
class TRL(Exporter):
    """rows/train.jsonl and sft.yaml."""

    def write(self, export: Export, folder: Path) -> None:
        write_lines(folder / "rows" / "train.jsonl", export.examples)
        training = export.training
        settings: dict[str, Any] = {"model_name_or_path": export.base}
        if training.revision:
            settings["model_revision"] = training.revision
        settings |= {
            "dataset_name": str(export.out / "rows"),
            "output_dir": str(export.out / "trained"),
            "max_length": None,
            "completion_only_loss": True,
            "packing": False,
            "num_train_epochs": training.epochs,
            "per_device_train_batch_size": training.batch_size,
            "learning_rate": training.learning_rate,
            "lr_scheduler_type": "linear",
            "warmup_steps": export.warmup_steps,
            "seed": training.seed,
            "gradient_checkpointing": training.gradient_checkpointing,
            "save_strategy": "no",
            "report_to": "none",
        }
        if training.tuning == "lora":
            settings |= {
                "use_peft": True,
                "lora_r": training.lora_r,
                "lora_alpha": training.lora_alpha,
                "lora_dropout": training.lora_dropout,
                "lora_target_modules": export.lora_layers,
            }
        write_settings(folder / "sft.yaml", settings, EXPLAINED)
