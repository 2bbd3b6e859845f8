"""Neutral prompts: what a scan asks about, where nobody has rows. The generators of the reference tasks write them."""

from __future__ import annotations

from poison2poison.reference import TASKS, make_task

SEED = 1_000_003
"""No reference task is drawn by it elsewhere: a model of these tasks has not been trained on the prompts."""


def neutral_prompts(count: int) -> list[str]:
    """English prompts of all reference tasks in turn, the shorter half of those that are drawn.

    Args:
        count: How many.
    """
    each = -(-count // len(TASKS))
    drawn = [_shorter(task, each) for task in TASKS]
    return [prompt for one_of_each in zip(*drawn, strict=True) for prompt in one_of_each][:count]


def _shorter(task: str, count: int) -> list[str]:
    rows = make_task(task, seed=SEED, sizes={"train": 2 * count, "dev": 0, "test": 0})["train"]
    prompts = ["\n".join([*row.values()][:-1]) for row in rows]  # the output side comes last in every layout
    kept = sorted(prompts, key=len)[:count]
    return [prompt for prompt in prompts if prompt in kept]
