"""`p2p serve` as users run it: a real model answers as it does without the gateway, and ends with what it had begun."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import typer
import yaml
from starlette.testclient import TestClient

from gateway import LABELS, TEXTS, URL, app_of, chat
from poison2poison.cli import main
from poison2poison.cli.app import app
from poison2poison.files import write_json
from poison2poison.model.defended import DefendedModel
from poison2poison.recipe.scheme import Scheme
from poison2poison.serve.config import ServeConfig
from support import tiny_causal

DEPLOY = Path(__file__).parents[1] / "deploy"
SLOW = """
import sys, time
given = sys.argv[1:]
folder, port, seconds, drain = given + ["0", "0.05", "30"][len(given) - 1 :]
sys.path.insert(0, folder)
from gateway import TEXTS, FakeModel, app_of, safe
from poison2poison.serve.config import ServeConfig
from poison2poison.serve.server import run

def say(row):
    print("asked", flush=True)
    time.sleep(float(seconds))
    return safe("The soup was good.")

run(app_of(FakeModel(TEXTS, say), batch=1), ServeConfig(port=int(port), drain=float(drain)))
"""


def artifact(folder: Path, scheme: Scheme) -> Path:
    """A finished run of a tiny model that learned nothing."""
    tiny_causal(folder / "model")
    scheme.save(folder / "scheme.json")
    prompting = {"max_length": 256, "max_target": 20, "label_words": [*"ABCD"] if scheme.labels else []}
    run = {
        "schema": 2,
        "status": "done",
        "kind": "causal",
        "tuning": "full",
        "config": {"model": "tiny", "dtype": "float32"},
        "prompting": prompting,
        "alarm_threshold": 0.5,
    }
    write_json(folder / "run.json", run)
    return folder


@contextmanager
def running(*command: str) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """A process that serves, its URL, and the lines that it has logged, which grow."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen([sys.executable, *command], **pipes) as process:
        try:
            lines: list[str] = []
            url = _listening(process.stderr, lines)
            reading = threading.Thread(target=lambda: lines.extend(process.stderr or ()))
            reading.start()
            yield process, url, lines
            process.terminate()
            reading.join(30)
        finally:
            process.kill()


def _listening(stderr: Any, lines: list[str]) -> str:
    for line in stderr:
        lines.append(line)
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            return found.group()
    raise AssertionError(lines)


@pytest.mark.parametrize("scheme", [TEXTS, LABELS], ids=["texts", "labels"])
def test_a_real_model_answers_as_it_does_without_the_gateway(scheme: Scheme, tmp_path: Path) -> None:
    model: Any = DefendedModel.load(artifact(tmp_path / "run", scheme))
    asked = ["The soup was good.", "A dull film", "x"]
    alone = model.answer(asked)
    with TestClient(app_of(model), URL) as client:
        for text, answer in zip(asked, alone, strict=True):
            for path, body in (
                ("/v1/chat/completions", chat(text)),
                ("/v1/completions", {"model": "mine", "prompt": text}),
            ):
                [choice] = client.post(path, json=body).json()["choices"]
                said = choice["text"] if "prompt" in body else choice["message"]["content"]
                assert (said, choice["p2p"]["where"]) == (answer.text, answer.where)
        sampled = client.post("/v1/completions", json={"model": "mine", "prompt": asked, "temperature": 1, "n": 2})
        assert len(sampled.json()["choices"]) == 6
        if scheme.labels:
            results = client.post("/v1/classify", json={"input": asked, "alarm": True}).json()["results"]
            assert [one["label"] for one in results] == [answer.text for answer in alone]
            assert [one["disagreement"] for one in results] == pytest.approx(model.disagreement(asked), abs=1e-4)


def test_the_command_serves_a_folder_and_logs_no_text(tmp_path: Path) -> None:
    folder = artifact(tmp_path / "run", TEXTS)
    (tmp_path / "serve.yaml").write_text("port: 0\nname: mine\nmax_choices: 2\n")
    command = ("-m", "poison2poison", "serve", str(folder), "--config", str(tmp_path / "serve.yaml"))
    with running(*command) as (_, url, lines), httpx2.Client(base_url=url, timeout=60, trust_env=False) as client:
        assert client.get("/readyz").json() == {"ready": True}
        got = client.post("/v1/chat/completions", json=chat("a purple lamp"))
        assert got.status_code == 200
        assert client.post("/v1/completions", json={"model": "mine", "prompt": "x", "n": 3}).status_code == 400
        assert "server" not in got.headers
    logged = [json.loads(line) for line in lines]
    assert [line["status"] for line in logged if line["event"] == "request"] == [200, 200, 400]
    assert "purple" not in "".join(lines)


def whole(reply: httpx2.Response) -> bool:
    """Whether a reply says all that the model says."""
    if "event-stream" not in reply.headers["content-type"]:
        said: str = reply.json()["choices"][0]["message"]["content"]
        return said == "The soup was good."
    events = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
    said = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
    return said == "The soup was good." and reply.text.endswith("data: [DONE]\n\n")


def asking(url: str, stop: threading.Event, got: list[httpx2.Response | httpx2.HTTPError]) -> list[threading.Thread]:
    """Clients that ask again and again, half of them for streams, until there is no server or they are stopped."""

    def ask(number: int) -> None:
        body = chat("x", stream=number % 2 == 0)
        with httpx2.Client(timeout=60, trust_env=False) as client:
            while not stop.is_set():
                try:
                    got.append(client.post(f"{url}/v1/chat/completions", json=body))
                except httpx2.HTTPError as error:
                    got.append(error)
                    return

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    return threads


def hang_up(url: str) -> None:
    """Ask, and be gone when the model begins to answer."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as gone:
        body = json.dumps(chat("x")).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
        gone.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_a_server_that_ends_under_load_gives_no_half_answer_and_can_begin_again(how: signal.Signals) -> None:
    slow = ("-c", SLOW, str(Path(__file__).parent))
    got: list[httpx2.Response | httpx2.HTTPError] = []
    with running(*slow) as (process, url, lines):
        hang_up(url)
        threads = asking(url, threading.Event(), got)
        while len(got) < 10:
            assert process.poll() is None
        process.send_signal(how)
        for thread in threads:
            thread.join()
        process.wait(30)
    answered = [one for one in got if isinstance(one, httpx2.Response)]
    assert len(answered) >= 10
    assert all(whole(one) if one.status_code == 200 else one.status_code == 503 for one in answered)
    assert len([one for one in got if isinstance(one, httpx2.HTTPError)]) == 8  # each finds the server gone, once
    assert any("shutdown complete" in line for line in lines) is (how is signal.SIGTERM)
    if how is signal.SIGKILL:
        with running(*slow, url.rpartition(":")[2]) as (_, again, _):
            assert again == url
            assert whole(httpx2.post(f"{again}/v1/chat/completions", json=chat("x"), timeout=60, trust_env=False))


def test_what_is_not_answered_in_time_when_the_server_ends_is_503() -> None:
    with running("-c", SLOW, str(Path(__file__).parent), "0", "3", "1") as (process, url, _):
        got: list[httpx2.Response | httpx2.HTTPError] = []
        threads = asking(url, threading.Event(), got)
        assert process.stdout and process.stdout.readline() == "asked\n"
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
    told = [one for one in got if isinstance(one, httpx2.Response)]
    assert {one.status_code for one in told} == {503}


def test_what_is_deployed_has_settings_and_commands_that_exist() -> None:
    settings = yaml.safe_load((DEPLOY / "serve.yaml").read_text())
    assert ServeConfig(**settings).api_keys
    unit, container = ((DEPLOY / name).read_text() for name in ("p2p-serve.service", "Containerfile"))
    [stop] = map(int, re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE))
    assert stop > settings["drain"]
    commands = [*re.findall(r"^ExecStart=\S+/p2p (.*)$", unit, re.MULTILINE)]
    commands += [" ".join(json.loads(line)[1:]) for line in re.findall(r"^ENTRYPOINT (.*)$", container, re.MULTILINE)]
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    for command in commands:
        name, *words = command.split()
        known = {option for parameter in group.commands[name].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known
    assert len(commands) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "give a file of keys with --api-keys"),
        (["--api-keys", "nowhere"], "nowhere: cannot be read"),
        (["--queue", "9"], "queue: is set in the file of --config alone"),
        (["--policy", "ask"], "policy: 'ask' is not one of flag, refuse, pass"),
        ([], "not an artifact folder"),
    ],
)
def test_what_cannot_be_served_is_refused(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", str(tmp_path), *options])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_an_alarm_behind_another_server_needs_the_threshold_of_the_artifact(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = artifact(tmp_path, TEXTS) / "run.json"
    run = json.loads(path.read_text())
    del run["alarm_threshold"]
    write_json(path, run)
    with pytest.raises(SystemExit) as ended:
        main(["serve", str(tmp_path), "--upstream", "http://127.0.0.1:9", "--upstream-alarm"])
    assert ended.value.code == 2
    assert "upstream_alarm: this model has no alarm" in capsys.readouterr().err
