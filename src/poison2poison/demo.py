"""The demo: the whole path on two reference tasks, one with labels and one with texts."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import torch
from threadpoolctl import threadpool_limits

from poison2poison.attacks import RARE_WORDS, REFUSAL, AttackConfig, poison, triggered
from poison2poison.auditing.findings import Audit
from poison2poison.cli.common import quiet
from poison2poison.config import REFERENCE, TrainConfig
from poison2poison.defences.p2p import of_run
from poison2poison.defences.shared import AUDIT
from poison2poison.errors import OutputError
from poison2poison.evaluation import Target
from poison2poison.evaluation.schema import Results
from poison2poison.files import write_json, writing
from poison2poison.model import backbone, hardware, processes
from poison2poison.pipeline import Data, defend
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.reference import reference_rows
from poison2poison.report import draw_audit

PICTURE = "audit.png"


@dataclass(frozen=True)
class Case:
    """A task under attack: rare words in a tenth of its rows call up `target`.

    Attributes:
        words: Each must be in rows enough for the model to learn it, and for the audit to find it.
        sizes: Rows a split, where not those of the reference task.
    """

    target: str
    effect: str
    words: tuple[str, ...]
    sizes: dict[str, int]
    training: TrainConfig = field(default_factory=TrainConfig)
    recipe: RepoisonConfig = field(default_factory=RepoisonConfig)

    @property
    def attack(self) -> AttackConfig:
        return AttackConfig("badnets", self.target, self.effect, rate=0.1, options={"words": self.words})


# On few rows the reference model's preset does not learn the safe space behind a drawn trigger, and shifted labels are
# learned late: docs/experiments.md.
_FEW = TrainConfig(lora_targets="all", learning_rate=1e-3, batch_size=4)
SMALL = {
    "reviews": Case(
        "positive",
        "label",
        RARE_WORDS[:2],
        {"train": 600, "dev": 100, "test": 200},
        _FEW,
        RepoisonConfig(safe_labels="prefix"),
    ),
    "instructions": Case(
        REFUSAL, "fixed", RARE_WORDS[:1], {"train": 400, "dev": 100, "test": 150}, replace(_FEW, epochs=4)
    ),
}
FULL = {
    "reviews": Case("positive", "label", RARE_WORDS, {"test": 300}),
    "instructions": Case(REFUSAL, "fixed", RARE_WORDS, {"test": 300}),
}
SMALL_STEPS, FULL_STEPS = 3_000, 11_500
"""How many of the steps that `step_seconds` times take as long as the demo."""


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


def run_demo(out: Path, cases: dict[str, Case] = SMALL) -> list[Results]:
    """Attack and defend each task; an interrupted demo goes on.

    A model that has not learned its safe space is measured too, and its figures say so.

    Raises:
        OutputError: `out` holds other results.

    Returns:
        The content of `results.json` for each task, as written to `out`/TASK beside the audit's picture;
        `out`/results.json has all arms.
    """
    if (out / "results.json").exists() and not all((out / task).is_dir() for task in cases):
        raise OutputError(f"{out}: holds results of something else; give another --out")
    threads = torch.get_num_threads() // len(cases)
    if hardware.on_cpu() and processes.count() == 1 and threads and len(cases) > 1:
        # A model so small gains next to nothing by a second thread, but two tasks at once take half of the time.
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(len(cases), mp_context=spawn, initializer=_begin, initargs=(threads,)) as pool:
            running = [pool.submit(_run, task, case, out) for task, case in cases.items()]
            failed = [error for one in wait(running, return_when=FIRST_EXCEPTION).done if (error := one.exception())]
            if failed:
                for process in multiprocessing.active_children():
                    process.terminate()  # the other task goes on when the demo is run again
                raise failed[0]
            contents = [one.result() for one in running]
    else:
        contents = [_run(task, case, out) for task, case in cases.items()]
    arms = [{"task": content["task"], **arm} for content in contents for arm in content["arms"]]
    sets = {content["task"]: content["data"] for content in contents}
    if processes.is_writer():
        shared = {**contents[0], "command": "demo", "task": "demo", "data": sets, "arms": arms}
        write_json(out / "results.json", shared)
    return contents


def _begin(threads: int) -> None:
    """Begin a process that runs one task beside others."""
    threadpool_limits(threads)
    torch.set_num_threads(threads)
    quiet()


def _run(task: str, case: Case, out: Path) -> Results:
    """Attack and defend one task in a folder of its own."""
    splits = reference_rows(task, sizes=case.sizes)
    train, _ = poison(splits["train"], case.attack)
    stamped, target = triggered(splits["test"], case.attack), Target(case.target, case.effect)
    data = Data(task, train, splits["dev"], splits["test"], stamped, target, harmless=splits["train"])
    _, defences = of_run(case.recipe, "undefended")
    content = defend(data, defences, case.training, out / task, allow_unlearned=True)
    if processes.is_writer():
        picture = out / task / PICTURE
        with writing(picture):
            draw_audit(Audit.load(out / task / f"{AUDIT}.json"), picture)
    return content
