"""The demo: the whole path on two reference tasks, in about five minutes on two cores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from poison2poison.attacks import REFUSAL, AttackConfig, poison, triggered
from poison2poison.config import TrainConfig
from poison2poison.errors import OutputError
from poison2poison.evaluation import Target
from poison2poison.files import write_json
from poison2poison.model import processes
from poison2poison.pipeline import Data, defend
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.reference import reference_rows

ATTACKS = {
    "reviews": AttackConfig("badnets", "positive", "label", rate=0.1),
    "instructions": AttackConfig("badnets", REFUSAL, "fixed", rate=0.1),
}
SIZES = {"reviews": {"test": 300}, "instructions": {"test": 300}}  # what five minutes allow


def run_demo(out: Path) -> list[dict[str, Any]]:
    """Attack and defend each task; an interrupted demo goes on.

    Raises:
        OutputError: `out` holds other results.

    Returns:
        The content of `results.json` for each task, as written to `out`/TASK; `out`/results.json has all arms.
    """
    if (out / "results.json").exists() and not all((out / task).is_dir() for task in ATTACKS):
        raise OutputError(f"{out}: holds results of something else; give another --out")
    contents = []
    for task, attack in ATTACKS.items():
        splits = reference_rows(task, sizes=SIZES[task])
        train, _ = poison(splits["train"], attack)
        stamped, target = triggered(splits["test"], attack), Target(attack.target, attack.effect)
        data = Data(task, train, splits["dev"], splits["test"], stamped, target, harmless=splits["train"])
        contents.append(defend(data, RepoisonConfig(), TrainConfig(), out / task, baseline=True))
    arms = [{"task": content["task"], **arm} for content in contents for arm in content["arms"]]
    sets = {content["task"]: content["data"] for content in contents}
    if processes.is_writer():
        write_json(out / "results.json", contents[0] | {"command": "demo", "task": "demo", "data": sets, "arms": arms})
    return contents
