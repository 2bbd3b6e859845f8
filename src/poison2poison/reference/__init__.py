"""Reference tasks and the pretrained reference model: the whole path works without a hub."""

from pathlib import Path

from poison2poison.reference.tasks import SPLIT_SIZES, TASKS, make_task

MODEL_DIR = Path(__file__).parent / "model"

__all__ = ["MODEL_DIR", "SPLIT_SIZES", "TASKS", "make_task"]
