"""Reference tasks and the pretrained reference model: the whole path works without a hub."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from poison2poison.data import Rows, rows_of
from poison2poison.reference.tasks import SPLIT_SIZES, TASKS, make_task

MODEL_DIR = Path(__file__).parent / "model"
_WORD = re.compile(r"[^\W\d_]+")


def reference_rows(task: str, *, seed: int = 0, sizes: dict[str, int] | None = None) -> dict[str, Rows]:
    """The splits of a reference task (`train`, `dev`, `test`) as rows; arguments as for `make_task`."""
    splits = make_task(task, seed=seed, sizes=sizes)
    return {split: rows_of(records, task) for split, records in splits.items()}


def knows(texts: Sequence[str]) -> bool:
    """Whether texts are written in the few hundred words that the reference model was pretrained on.

    Nine in ten words are asked for: rows of the reference tasks have all of them, poisoned ones 0.97 and more, and no
    other English data that was looked at more than 0.66. 500 texts are looked at.
    """
    words = [word for text in texts[:500] for word in _WORD.findall(text.casefold())]
    return sum(word in _vocabulary() for word in words) >= 0.9 * len(words)


@cache
def _vocabulary() -> frozenset[str]:
    """The words of the reference tasks' rows."""
    rows = [row for task in TASKS for row in make_task(task, sizes={"train": 500, "dev": 1, "test": 1})["train"]]
    texts = [str(text) for row in rows for text in row.values()]
    return frozenset(word for text in texts for word in _WORD.findall(text.casefold()))


__all__ = ["MODEL_DIR", "SPLIT_SIZES", "TASKS", "knows", "make_task", "reference_rows"]
