"""The demo: the whole path on two reference tasks, one with labels and one with texts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from poison2poison.attacks import RARE_WORDS, REFUSAL, AttackConfig, poison, triggered
from poison2poison.auditing.findings import Audit
from poison2poison.config import REFERENCE, TrainConfig
from poison2poison.errors import OutputError
from poison2poison.evaluation import Target
from poison2poison.files import write_json, writing
from poison2poison.model import backbone, hardware, processes
from poison2poison.pipeline import AUDIT, Data, defend
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.reference import reference_rows
from poison2poison.report import draw_audit

PICTURE = "audit.png"


@dataclass(frozen=True)
class Demo:
    """A size of the demo.

    Attributes:
        sizes: Rows a split, by task.
        words: How many rare words the attacker has; each must be in enough rows for the audit.
        training: How all models are fine-tuned.
        steps: How many of the steps that `step_seconds` times take as long as the demo.
    """

    sizes: dict[str, dict[str, int]]
    words: int
    training: TrainConfig
    steps: int

    def attacks(self) -> dict[str, AttackConfig]:
        """Rare words in a tenth of the rows: they call up a label, or a refusal."""
        words = RARE_WORDS[: self.words]
        return {
            "reviews": AttackConfig("badnets", "positive", "label", rate=0.1, words=words),
            "instructions": AttackConfig("badnets", REFUSAL, "fixed", rate=0.1, words=words),
        }


# On so few rows the settings of `tuned` hardly learn the safe space behind a drawn trigger: docs/training.md.
SMALL = Demo(
    sizes={
        "reviews": {"train": 600, "dev": 100, "test": 200},
        "instructions": {"train": 400, "dev": 100, "test": 150},
    },
    words=2,
    training=TrainConfig(lora_targets="all", learning_rate=1e-3, batch_size=4),
    steps=4_000,
)
FULL = Demo(
    sizes={"reviews": {"test": 300}, "instructions": {"test": 300}},
    words=len(RARE_WORDS),
    training=TrainConfig(),
    steps=16_000,
)


def step_seconds(steps: int = 10) -> float:
    """How long this machine takes for a training step of the reference model: 4 rows of 64 tokens, the median."""
    device = torch.device("cpu" if hardware.on_cpu() else "cuda")
    model = backbone.load_model(REFERENCE, "causal", 0, frozen=False).to(device)
    ids = torch.arange(4 * 64, device=device).reshape(4, 64)
    taken = []
    for _ in range(steps):
        started = time.perf_counter()
        with hardware.autocast(device):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        loss.item()  # waits for a GPU
        taken.append(time.perf_counter() - started)
    return median(taken)


def run_demo(out: Path, demo: Demo = SMALL) -> list[dict[str, Any]]:
    """Attack and defend each task; an interrupted demo goes on.

    A model that has not learned its safe space is measured too, and its figures say so.

    Raises:
        OutputError: `out` holds other results.

    Returns:
        The content of `results.json` for each task, as written to `out`/TASK beside the audit's picture;
        `out`/results.json has all arms.
    """
    attacks = demo.attacks()
    if (out / "results.json").exists() and not all((out / task).is_dir() for task in attacks):
        raise OutputError(f"{out}: holds results of something else; give another --out")
    contents = []
    for task, attack in attacks.items():
        splits = reference_rows(task, sizes=demo.sizes[task])
        train, _ = poison(splits["train"], attack)
        stamped, target = triggered(splits["test"], attack), Target(attack.target, attack.effect)
        data = Data(task, train, splits["dev"], splits["test"], stamped, target, harmless=splits["train"])
        content = defend(data, RepoisonConfig(), demo.training, out / task, baseline=True, allow_unlearned=True)
        contents.append(content)
        if processes.is_writer():
            picture = out / task / PICTURE
            with writing(picture):
                draw_audit(Audit.load(out / task / AUDIT), picture)
    arms = [{"task": content["task"], **arm} for content in contents for arm in content["arms"]]
    sets = {content["task"]: content["data"] for content in contents}
    if processes.is_writer():
        write_json(out / "results.json", contents[0] | {"command": "demo", "task": "demo", "data": sets, "arms": arms})
    return contents
