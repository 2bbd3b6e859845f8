"""The files by which others run the gate: their commands, as far as they go offline, block and pass."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from poison2poison import attacks
from support import chatter

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "how-to" / "gate.md").read_text(encoding="utf-8")
P2P = f"""#!{sys.executable}
import sys
from poison2poison import cli
from poison2poison.model import embeddings
from support import word_states
embeddings.embedder = lambda model: word_states
cli.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of rows with a `p2p` whose model knows their words: poisoned.jsonl and clean.jsonl."""
    folder = tmp_path_factory.mktemp("checkout")
    splits = {"train": chatter(200), "dev": chatter(20, seed=1), "test": chatter(20, seed=2)}
    attacks.write_attack(folder / "all", splits, attacks.AttackConfig("addsent", "positive", "label", rate=0.1))
    (folder / "data").mkdir()
    (folder / "all" / "train.jsonl").replace(folder / "data" / "poisoned.jsonl")
    (folder / "all" / "train_clean.jsonl").replace(folder / "data" / "clean.jsonl")
    (folder / "bin").mkdir()
    (folder / "bin" / "p2p").write_text(P2P)
    (folder / "bin" / "p2p").chmod(0o755)
    return folder


def run(script: str, folder: Path, **variables: str) -> int:
    """The exit code of a script, run as GitHub and GitLab run theirs."""
    path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
    modules = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": modules, **variables},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode in (0, 1), done.stderr
    return done.returncode


def blocks(heading: str) -> Any:
    """The YAML of a section of the page."""
    section = PAGE.partition(f"## {heading}\n")[2]
    found = re.search(r"```yaml\n(.*?)```", section, re.DOTALL)
    assert found
    return yaml.safe_load(found[1])


def on(rows: str, command: str) -> str:
    return command.replace("data/train.jsonl", f"data/{rows}.jsonl").replace("--model Qwen/Qwen3-0.6B", "")


ROWS = pytest.mark.parametrize(("rows", "code"), [("poisoned", 1), ("clean", 0)])


def test_the_page_is_short() -> None:
    assert len(PAGE.split()) <= 500


@ROWS
def test_the_hook_blocks_poisoned_rows_and_passes_clean_ones(rows: str, code: int, checkout: Path) -> None:
    [hook] = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    [used] = blocks("pre-commit")["repos"][0]["hooks"]
    assert used["id"] == hook["id"]
    assert re.search(used["files"], "data/train.jsonl")
    (checkout / "accepted.jsonl").write_text("")
    assert run(on(rows, f"{hook['entry']} {shlex.join(used['args'])}"), checkout) == code


def test_pre_commit_takes_the_hook() -> None:
    clientlib = pytest.importorskip("pre_commit.clientlib", reason="pre-commit is not installed")
    [hook] = clientlib.load_manifest(ROOT / ".pre-commit-hooks.yaml")
    assert hook["pass_filenames"] is False


@ROWS
def test_pre_commit_runs_the_hook_on_a_repository(rows: str, code: int, checkout: Path, tmp_path: Path) -> None:
    pytest.importorskip("pre_commit", reason="pre-commit is not installed")
    [hook] = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    offline = hook | {"language": "system"}  # else it installs this package
    commit(tmp_path / "hooks", {".pre-commit-hooks.yaml": yaml.safe_dump([offline])})
    [used] = blocks("pre-commit")["repos"][0]["hooks"]
    used["args"] = ["data/train.jsonl"]
    uses = {"repos": [{"repo": str(tmp_path / "hooks"), "rev": "v0.1.0", "hooks": [used]}]}
    held = (checkout / "data" / f"{rows}.jsonl").read_text()
    commit(tmp_path / "repo", {".pre-commit-config.yaml": yaml.safe_dump(uses), "data/train.jsonl": held})
    script = f"cd {shlex.quote(str(tmp_path / 'repo'))}; {shlex.quote(sys.executable)} -m pre_commit run --all-files"
    assert run(script, checkout, PRE_COMMIT_HOME=str(tmp_path / "home")) == code


def commit(folder: Path, files: dict[str, str]) -> None:
    """A repository with one commit."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    me = ["-c", "user.name=me", "-c", "user.email=me@example.org", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "-A"], [*me, "commit", "-qm", "all"], ["tag", "v0.1.0"]):
        subprocess.run(["git", *words], cwd=folder, check=True)


@ROWS
def test_the_action_blocks_poisoned_rows_and_passes_clean_ones(rows: str, code: int, checkout: Path) -> None:
    pytest.importorskip("sarif_pydantic", reason="the extra `gate` is not installed")
    action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    inputs = {name: about.get("default", "") for name, about in action["inputs"].items()}
    with_ = blocks("GitHub")["jobs"]["audit"]["steps"][1]["with"]
    assert with_.keys() <= inputs.keys()
    inputs |= {"rows": f"data/{rows}.jsonl"}
    step = action["runs"]["steps"][-1]
    assert "${{" not in step["run"]
    variables = {name: filled(value, inputs) for name, value in step["env"].items()}
    (checkout / "page.md").write_text("")
    variables |= {"GITHUB_STEP_SUMMARY": str(checkout / "page.md"), "RUNNER_TEMP": str(checkout)}
    assert run(step["run"], checkout, **variables) == code
    assert (checkout / inputs["sarif"]).stat().st_size
    assert ("blocked" if code else "passed") in (checkout / "page.md").read_text()


def filled(value: str, inputs: dict[str, str]) -> str:
    return re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda found: inputs[found[1]], value)


def test_the_action_leaves_the_job_s_own_python_as_it_is(checkout: Path, tmp_path: Path) -> None:
    action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    without_pip = action["runs"]["steps"][0]["run"].replace(
        "-m pip", "-c 'import sys; print(sys.prefix, *sys.argv[1:])'"
    )
    script = without_pip.replace("-m venv", "-m venv --without-pip").rstrip() + " > words"
    assert run(script, tmp_path, RUNNER_TEMP=str(tmp_path), SOURCE=str(ROOT)) == 0
    words = (tmp_path / "words").read_text().split()
    assert words == [str(tmp_path / "p2p"), "install", "-c", str(ROOT / "constraints.txt"), f"{ROOT}[gate]"]


def test_the_action_hands_on_what_is_optional_as_single_words(checkout: Path) -> None:
    action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    step = action["runs"]["steps"][-1]
    script = f"p2p() {{ printf '%s\\n' \"$@\" > words; }}\n{step['run']}"
    given = {name: f"$(touch hacked) {name}" for name in step["env"]}
    assert run(script, checkout, GITHUB_STEP_SUMMARY="page", RUNNER_TEMP=str(checkout), **given) == 0
    words = (checkout / "words").read_text().splitlines()
    assert words[words.index("--baseline") + 1] == given["BASELINE"]
    assert words[words.index("--changed-since") + 1] == given["CHANGED_SINCE"]
    assert not (checkout / "hacked").exists()


@ROWS
def test_the_job_for_gitlab_blocks_and_passes(rows: str, code: int, checkout: Path) -> None:
    for library in ("sarif_pydantic", "junitparser"):
        pytest.importorskip(library, reason="the extra `gate` is not installed")
    job = blocks("GitLab")["p2p-audit"]
    script = "\n".join(line for line in job["script"] if not line.startswith("pip install"))
    assert run(on(rows, script), checkout) == code
    written = [*job["artifacts"]["paths"], *job["artifacts"]["reports"].values()]
    assert all((checkout / path).is_file() for path in written)


@ROWS
def test_dvc_stops_at_poisoned_rows_and_goes_on_with_clean_ones(
    rows: str, code: int, checkout: Path, tmp_path: Path
) -> None:
    if shutil.which("dvc") is None:
        pytest.skip("dvc is not installed")
    stages = blocks("DVC")
    stages["stages"]["audit"]["cmd"] = on("train", stages["stages"]["audit"]["cmd"])
    stages["stages"]["train"] = {"cmd": "touch trained", "deps": ["p2p.sarif"], "outs": ["trained"]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump(stages))
    (tmp_path / "data").mkdir()
    shutil.copy(checkout / "data" / f"{rows}.jsonl", tmp_path / "data" / "train.jsonl")
    script = f"cd {shlex.quote(str(tmp_path))}; dvc init --no-scm --quiet; dvc repro || exit 1"
    assert run(script, checkout, DVC_NO_ANALYTICS="1", HOME=str(tmp_path)) == code
    assert (tmp_path / "p2p.sarif").exists()
    assert (tmp_path / "trained").exists() == (code == 0)


def test_the_stage_for_dvc_runs_the_same_command() -> None:
    stage = blocks("DVC")["stages"]["audit"]
    assert any(line.startswith(stage["cmd"]) for line in blocks("GitLab")["p2p-audit"]["script"])
    assert all(path in stage["cmd"] for path in [*stage["deps"], *stage["outs"]])
