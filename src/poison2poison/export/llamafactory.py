"""LLaMA-Factory: a tokenised data set as it saves its own, and an entry in its `dataset_info.json`.

Its templates cannot be told to write our tokens: they end every answer with a token of their own, labels too, and make
control tokens of what rows say. So the rows go in behind them, by `tokenized_path`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from poison2poison.errors import OutputError
from poison2poison.export.base import EXPORTERS, Export, Exporter, write_settings
from poison2poison.files import write_json

INFO = "dataset_info.json"
EXPLAINED = """llamafactory-cli train sft.yaml
The rows are tokens already: LLaMA-Factory reads them from tokenized_path and looks at nothing else. It wants a dataset
all the same; that name's entry in dataset_info.json holds no rows, so that it stops if tokenized_path is not there.
`template: empty` is the one that changes nothing of the tokenizer.
The numbers are those that poison2poison would train with."""


@EXPORTERS.register("llamafactory")
class LlamaFactory(Exporter):
    """tokenized/, sft.yaml, and an entry in the dataset_info.json beside --out; in --out where there is none."""

    def write(self, export: Export, folder: Path) -> None:
        from datasets import Dataset, DatasetDict

        info = _info(export)
        _read(info, export)  # the name may be taken
        masked = [{**example, "attention_mask": [1] * len(example["input_ids"])} for example in export.examples]
        DatasetDict({"train": Dataset.from_list(masked)}).save_to_disk(folder / "tokenized")
        training = export.training
        settings: dict[str, Any] = {"model_name_or_path": export.base}
        if training.revision:
            settings["model_revision"] = training.revision
        settings |= {
            "stage": "sft",
            "do_train": True,
            "dataset": export.out.name,
            "dataset_dir": str(info.parent),
            "tokenized_path": str(export.out / "tokenized"),
            "template": "empty",
            "enable_thinking": False,
            "cutoff_len": export.longest,
            "packing": False,
            "train_on_prompt": False,
            "output_dir": str(export.out / "trained"),
            "finetuning_type": training.tuning,
            "num_train_epochs": training.epochs,
            "per_device_train_batch_size": training.batch_size,
            "learning_rate": training.learning_rate,
            "lr_scheduler_type": "linear",
            "warmup_steps": export.warmup_steps,
            "bf16": True,
            "seed": training.seed,
            "disable_gradient_checkpointing": not training.gradient_checkpointing,
            "report_to": "none",
        }
        if training.tuning == "lora":
            settings |= {
                "lora_rank": training.lora_r,
                "lora_alpha": training.lora_alpha,
                "lora_dropout": training.lora_dropout,
                "lora_target": ",".join(export.lora_layers),
            }
        write_settings(folder / "sft.yaml", settings, EXPLAINED)

    def announce(self, export: Export) -> None:
        info = _info(export)
        write_json(info, _read(info, export) | {export.out.name: _entry(export)})


def _info(export: Export) -> Path:
    """The data folder's own list where --out lies in one, else a list in --out."""
    own = export.out.parent / INFO
    return own if own.is_file() else export.out / INFO


def _entry(export: Export) -> dict[str, str]:
    return {"file_name": str(export.out / "tokenized")}


def _read(info: Path, export: Export) -> dict[str, Any]:
    """The entries that are there.

    Raises:
        OutputError: One has the name of --out, or the file is broken.
    """
    if not info.is_file():
        return {}
    try:
        entries = json.loads(info.read_text(encoding="utf-8"))
        taken = entries.get(export.out.name)
    except (ValueError, AttributeError) as error:
        raise OutputError(f"{info}: not a list of data sets ({error})") from None
    if taken not in (None, _entry(export)):
        raise OutputError(f"{info}: has an entry {export.out.name!r} already; give an --out of another name")
    return dict(entries)
