from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from poison2poison.attacks import AttackConfig, write_attack
from poison2poison.cli import main
from poison2poison.config import TrainConfig
from poison2poison.data import Rows, as_records, rows_of
from poison2poison.errors import ConfigError
from poison2poison.files import write_json, write_lines
from poison2poison.model import settings
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.recipe.repoison import repoison
from poison2poison.recipe.repoisoned import write_repoisoned
from poison2poison.recipe.scheme import PAPER_SAFE_PREFIX, PAPER_TRIGGER, Scheme
from support import in_file, opinions, tiny_causal

SHARED = """
import json, os, sys
from pathlib import Path
from poison2poison.errors import DataError
from poison2poison.model import processes

def fail():
    raise DataError(f"met by {os.environ['RANK']}")

found = {"made": processes.once(lambda: f"made by {os.environ['RANK']}")}
try:
    processes.once(fail)
except DataError as error:
    found["error"] = str(error)
found["anywhere"] = [processes.anywhere(False), processes.anywhere(os.environ["RANK"] == "1")]
own, other = (Path(sys.argv[1], str(rank)) for rank in (int(os.environ["RANK"]), 1 - int(os.environ["RANK"])))
own.with_suffix(".here").touch()
processes.wait()
found["waited"] = other.with_suffix(".here").exists()
own.with_suffix(".json").write_text(json.dumps(found))
processes.leave()
"""

# The second process ends without a word, as on a machine that fails.
STOPPED = """
import os
from poison2poison.cli import main
from poison2poison.model import loop

def stop(self, args, state, control, **_):
    if state.global_step == int(os.environ.get("STOP_AT", -1)) and os.environ["RANK"] == "1":
        os._exit(9)

loop.Progress.on_step_begin = stop
main()
"""

# accelerate has FSDP and DeepSpeed on GPUs and their like alone; torch and DeepSpeed have them on CPUs too.
ON_CPU = """
import os
from accelerate.state import PartialState
from accelerate.utils import DistributedType

os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
begin = PartialState.__init__
PartialState.__init__ = lambda self, cpu=False, **options: begin(self, False, **options)
PartialState._prepare_backend = lambda self, *_, **__: ("gloo", DistributedType.MULTI_GPU)
"""
FSDP2 = {
    "fsdp_version": 2,
    "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
    "fsdp_state_dict_type": "SHARDED_STATE_DICT",
    "fsdp_cpu_ram_efficient_loading": True,
}
ZERO3 = {
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "zero_optimization": {
        "stage": 3,
        "stage3_gather_16bit_weights_on_model_save": True,
        "stage3_param_persistence_threshold": 0,  # or weights as small as these stay whole
    },
}
TORCHRUN = ("torch.distributed.run", "--nproc-per-node", "2")


def run(*command: str, launcher: tuple[str, ...] = TORCHRUN, stop_at: int = -1) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    return subprocess.run(
        [sys.executable, "-m", *launcher, *command],
        env={**environment, "STOP_AT": str(stop_at)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def run_alone(*command: str) -> int:
    with pytest.MonkeyPatch.context() as patched, pytest.raises(SystemExit) as ended:
        patched.setattr(torch.cuda, "is_available", lambda: False)
        main(command)
    return int(ended.value.code or 0)


def close(one: Path, two: Path, file: str) -> bool:
    """Equal within rounding, which all steps at a high rate have enlarged: weights reach 1.5."""
    ours, theirs = (load_file(out / "model" / file) for out in (one, two))
    return ours.keys() == theirs.keys() and all(torch.allclose(ours[name], theirs[name], atol=2e-3) for name in ours)


def test_all_have_what_the_writer_made_or_met(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SHARED)
    done = run(str(tmp_path / "script.py"), str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert found == [{"made": "made by 0", "error": "met by 0", "anywhere": [False, True], "waited": True}] * 2


def test_two_processes_defend_as_one_does_though_interrupted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    splits = {"train": opinions(240), "dev": opinions(40, seed=1), "test": opinions(40, seed=2)}
    write_attack(tmp_path / "data", splits, AttackConfig("badnets", "positive", "label"))
    (tmp_path / "script.py").write_text(STOPPED)
    command = ["defend", str(tmp_path / "data"), "--model", tiny_causal(tmp_path / "base"), "--epochs", "6"]
    command += in_file(tmp_path, trigger="paper", tuning="full", dtype="float32", warmup=0.0)
    command += ["--batch-size", "16", "--learning-rate", "1e-2", "--out"]
    one, two = tmp_path / "one", tmp_path / "two"

    assert run_alone(*command, str(one)) == 0
    stopped = run(str(tmp_path / "script.py"), *command, str(two), stop_at=50)
    assert (stopped.returncode, (two / "results.json").exists()) == (1, False)
    done = run("-m", "poison2poison", *command, str(two))
    assert done.returncode == 0, done.stderr

    told, words = capsys.readouterr().out, ("suspect span", "CA", "in %")
    assert [done.stdout.count(word) for word in words] == [told.count(word) for word in words]
    assert [done.stderr.count(line) for line in ("epoch 6 of 6", "the model to serve")] == [1, 1]
    assert paths(one) == paths(two)
    assert figures(one) == figures(two)
    assert close(one / "p2p-hardened", two / "p2p-hardened", "model.safetensors")
    trained = json.loads((two / "p2p-hardened" / "run.json").read_text())
    assert trained["processes"] == 2
    assert trained["resumed_from"] % (trained["steps"] // trained["epochs"])  # within an epoch


def paths(out: Path) -> list[Path]:
    return sorted(path.relative_to(out) for path in out.rglob("*"))


def figures(out: Path) -> Any:
    """What was found, without the command and times, and the alarm, whose threshold is one of the very scores."""
    content = json.loads((out / "results.json").read_text())
    del content["run_by"]
    for arm in content["arms"]:
        for name in ("alarm", "alarm_triggered", "train_seconds", "peak_memory_mib"):
            arm.pop(name, None)
    return content


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """This process as the second of two, which the first one never ends; and the seconds that it waits."""
    waited: list[float] = []
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("time.sleep", waited.append)
    return waited


def test_what_cannot_be_shared_the_first_process_does(
    second: list[float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["attack", "reviews"], ["audit", "rows.jsonl"], ["evaluate", "runs", "--test", "rows.jsonl"]):
        assert run_alone(*command, "--out", str(tmp_path / "out")) == 0
    assert not (tmp_path / "out").exists()
    assert capsys.readouterr() == ("", "")
    assert not second


def test_a_process_that_alone_fails_says_so_when_the_first_has_had_the_time_to(
    second: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_alone("train", "missing.jsonl", "--out", "runs") == 2
    assert "error: missing.jsonl: no such file" in capsys.readouterr().err
    assert second == [10.0]


@pytest.mark.usefixtures("second")
def test_what_several_processes_cannot_share_is_refused() -> None:
    with pytest.raises(ConfigError, match="device_map"):
        settings.resolved(TrainConfig(device_map="auto"), 100)
    with pytest.raises(ConfigError, match="9 rows a step cannot be shared by 2"):
        settings.resolved(TrainConfig(batch_size=9), 100)


@pytest.mark.slow
@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("way", ["FSDP2", "ZeRO-3"])
def test_weights_spread_over_processes_are_trained_as_in_one(way: str, tuning: str, tmp_path: Path) -> None:
    if way == "ZeRO-3":
        pytest.importorskip("deepspeed")
    write_json(tmp_path / "zero.json", ZERO3)
    zero = {"deepspeed_config_file": str(tmp_path / "zero.json"), "zero3_init_flag": True}
    spread = {"FSDP2": {"distributed_type": "FSDP", "fsdp_config": FSDP2},
              "ZeRO-3": {"distributed_type": "DEEPSPEED", "deepspeed_config": zero}}[way]  # fmt: skip
    one_machine = {"compute_environment": "LOCAL_MACHINE", "num_machines": 1, "num_processes": 2, "machine_rank": 0}
    write_json(tmp_path / "accelerate.yaml", {**one_machine, **spread})  # JSON is YAML
    launcher = ("accelerate.commands.launch", "--config_file", str(tmp_path / "accelerate.yaml"))
    (tmp_path / "script.py").write_text(ON_CPU + STOPPED)
    rows, dev = (texts(opinions(240)), texts(opinions(40, seed=1)))
    scheme = Scheme("generation", (), PAPER_TRIGGER, PAPER_SAFE_PREFIX)
    write_repoisoned(tmp_path / "rows", repoison(rows, scheme, RepoisonConfig("paper", rho=0.5)), scheme, {"train": {}})
    write_lines(tmp_path / "dev.jsonl", as_records(dev))
    command = ["train", str(tmp_path / "rows"), "--dev", str(tmp_path / "dev.jsonl"), "--tuning", tuning]
    command += ["--model", tiny_causal(tmp_path / "base"), "--dtype", "float32", "--batch-size", "16"]
    command += {"full": ["--epochs", "6", "--learning-rate", "1e-2"],
                "lora": ["--epochs", "3", "--learning-rate", "1e-3"]}[tuning]  # fmt: skip
    command += in_file(
        tmp_path, warmup=0.0, max_target=16, micro_batch=4, gradient_checkpointing=True, more_epochs=0,
        lora_targets="all",
    )  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"

    unlearned = tuning == "lora"  # random weights with an adapter learn nothing
    assert run_alone(*command, "--out", str(one)) == (3 if unlearned else 0)
    stopped = run(str(tmp_path / "script.py"), *command, "--out", str(two), launcher=launcher, stop_at=35)
    assert stopped.returncode == 1
    done = run(str(tmp_path / "script.py"), *command, "--out", str(two), launcher=launcher)
    assert done.returncode == (1 if unlearned else 0), done.stderr
    trained, alone = (json.loads((out / "run.json").read_text()) for out in (two, one))
    assert (trained["status"], trained["processes"], trained["resumed_from"]) == (alone["status"], 2, 34)
    assert trained["dev_metric"] == pytest.approx(alone["dev_metric"], rel=1e-3)
    assert trained["safe_space"] == alone["safe_space"]
    assert close(one, two, "adapter_model.safetensors" if unlearned else "model.safetensors")


def texts(rows: Rows) -> Rows:
    return rows_of([{"prompt": row.prompt, "completion": f"It is {row.target}."} for row in rows], "texts")
