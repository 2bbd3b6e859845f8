"""Where cells are measured: each in a process of its own, on this machine or where Ray puts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from poison2poison.errors import ConfigError

LOG = "log.txt"
"""In a cell's folder: what its process printed."""
Environment = dict[str, str]
"""Variables that a cell's process has beside those of its parent."""


class Here:
    """Processes of this machine; with GPUs they take turns on these."""

    def __init__(self) -> None:
        self.running: list[subprocess.Popen[str]] = []

    def environments(self, workers: int) -> list[Environment]:
        """What each worker's processes are told: their GPU, or their share of the cores."""
        if workers == 1:
            return [{}]
        if gpus := _gpus():
            return [{"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} for i in range(workers)]
        return [_share(workers) for _ in range(workers)]

    def measure(self, told: dict[str, Any], folder: Path, environment: Environment) -> str:
        """Measure one cell.

        Args:
            told: What its process reads from its pipe.
            folder: The cell's, absolute.
            environment: One of `environments`.

        Returns:
            Why that failed as a whole; empty where it did not.
        """
        return run_cell(told, folder, environment, str(Path.cwd()), self.running)

    def stop(self) -> None:
        """End what is at work; it goes on the next time."""
        for process in [*self.running]:
            process.kill()


class OnRay(Here):
    """Tasks of Ray: of the cluster that RAY_ADDRESS names, or of one that is started here for the run.

    Every machine has the package installed, and sees data and folders under the same paths. A cell takes one CPU of
    Ray's count, and a GPU where there are any.
    """

    def __init__(self) -> None:
        """Connect.

        Raises:
            ConfigError: Ray is not installed, or does not start.
        """
        super().__init__()
        try:
            import ray
        except ModuleNotFoundError:
            raise ConfigError("ray: is not installed; pip install 'poison2poison[ray]'") from None
        self.ray = ray
        try:
            ray.init(include_dashboard=False, log_to_driver=False)
        except Exception as error:  # as which Ray raises it
            told = str(error).strip().splitlines()[0]
            raise ConfigError(f"ray: did not start ({told}); is RAY_ADDRESS right? Else leave --ray out") from None
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        options = {"num_cpus": 1, "num_gpus": gpus, "max_retries": 0, "scheduling_strategy": "SPREAD"}
        self.task = ray.remote(**options)(run_cell)

    def environments(self, workers: int) -> list[Environment]:
        """Ray gives out GPUs; the share of the cores is that of this machine."""
        return [_share(workers) for _ in range(workers)]

    def measure(self, told: dict[str, Any], folder: Path, environment: Environment) -> str:
        """See `Here`."""
        try:
            reason: str = self.ray.get(self.task.remote(told, folder, environment, str(Path.cwd()), []))
        except self.ray.exceptions.RayError as error:  # its machine is gone, or out of memory
            return str(error).strip().splitlines()[0]
        return reason

    def stop(self) -> None:
        """End Ray's processes of this run; a cell ends with the one that started it."""
        self.ray.shutdown()


def run_cell(
    told: dict[str, Any], folder: Path, environment: Environment, at: str, running: list[subprocess.Popen[str]]
) -> str:
    """Measure one cell in a process of its own; see `Here.measure`.

    Args:
        told, folder, environment: As there.
        at: The folder that relative paths are taken from.
        running: Holds the process while it is at work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    program = [sys.executable, "-m", "poison2poison.bench.cell", str(folder)]
    with (folder / LOG).open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True, env={**os.environ, **environment}, cwd=at
        )
        running.append(process)
        assert process.stdin is not None
        process.stdin.write(json.dumps(told) + "\n")
        process.stdin.flush()  # and left open: a cell ends when it closes
        process.wait()
        running.remove(process)
        process.stdin.close()
    return _reason(folder / LOG, process.returncode) if process.returncode else ""


def _reason(log: Path, code: int) -> str:
    """Why a process failed, by the last line that it printed."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    if code < 0:
        return f"was ended by signal {-code}; did memory run out?"
    return lines[-1].removeprefix("error: ") if lines else f"ended with code {code}"


def _share(workers: int) -> Environment:
    """The cores of a worker, as many as the others'."""
    share = str(max(1, (os.cpu_count() or 1) // workers))
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", share)}


def _gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return given.split(",")[:count] if given else [str(i) for i in range(count)]
