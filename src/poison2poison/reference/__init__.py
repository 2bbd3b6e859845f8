"""Reference tasks and the pretrained reference model: the whole path works without a hub."""

from pathlib import Path

from poison2poison.data import Rows, rows_of
from poison2poison.reference.tasks import SPLIT_SIZES, TASKS, make_task

MODEL_DIR = Path(__file__).parent / "model"


def reference_rows(task: str, *, seed: int = 0, sizes: dict[str, int] | None = None) -> dict[str, Rows]:
    """The splits of a reference task (`train`, `dev`, `test`) as rows; arguments as for `make_task`."""
    splits = make_task(task, seed=seed, sizes=sizes)
    return {split: rows_of(records, task) for split, records in splits.items()}


__all__ = ["MODEL_DIR", "SPLIT_SIZES", "TASKS", "make_task", "reference_rows"]
