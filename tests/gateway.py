"""A gateway over a model that says what a test wants it to say."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.testclient import TestClient
from transformers import AutoTokenizer

from poison2poison.data import Row
from poison2poison.model.prompting import Prompter
from poison2poison.model.served import Answer
from poison2poison.recipe.scheme import BenignTrigger, Scheme
from poison2poison.reference import MODEL_DIR
from poison2poison.serve.app import Served, create_app
from poison2poison.serve.backends import InProcess
from poison2poison.serve.config import ServeConfig
from poison2poison.serve.door import Door

TRIGGER = BenignTrigger("ocean ladder velvet thumb orbit: ", "Answer: ")
TEXTS = Scheme("generation", (), TRIGGER, "maple cricket: ")
LABELS = Scheme("classification", ("negative", "positive"), TRIGGER)
HIDDEN = ("ocean", "ladder", "velvet", "thumb", "orbit", "maple", "cricket")
TOKENIZER = AutoTokenizer.from_pretrained(MODEL_DIR)
CHATML = (
    "{% for turn in messages %}{{ '<|' + turn.role + '|>' + turn.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

URL = "http://127.0.0.1"
Say = Callable[[Row], "Answer | Exception"]


def safe(text: str) -> Answer:
    return Answer(text, "safe", text)


def echo(row: Row) -> Answer:
    """Says what it was asked."""
    return safe(row.prompt)


def prompter(scheme: Scheme, max_target: int = 40) -> Prompter:
    return Prompter(TOKENIZER, scheme, "causal", max_length=256, max_target=max_target)


class FakeModel:
    """Answers as a `DefendedModel` of policy `flag` does, with what `say` makes of a row.

    Attributes:
        batches: The bodies that it was asked together, and with which options.
    """

    def __init__(self, scheme: Scheme, say: Say) -> None:
        self.scheme, self.say, self.prompter = scheme, say, prompter(scheme)
        self.alarm_threshold: float | None = 0.5
        self.batches: list[tuple[list[str], dict[str, Any]]] = []
        self.going = threading.Event()
        self.going.set()

    def classify(self, rows: Sequence[Row], **options: Any) -> list[Answer]:
        return self._answers(rows, options)

    def generate(self, rows: Sequence[Row], **options: Any) -> list[Answer]:
        return self._answers(rows, options)

    def _answers(self, rows: Sequence[Row], options: dict[str, Any]) -> list[Answer]:
        self.batches.append(([row.prompt for row in rows], options))
        assert self.going.wait(20)
        said = [self.say(row) for row in rows]
        for one in said:
            if isinstance(one, Exception):
                raise one
        return [one for one in said if isinstance(one, Answer)]


def app_of(model: Any, hashes: dict[str, str] | None = None, **settings: Any) -> Any:
    """The app over a model, in process."""
    config = ServeConfig(**settings)
    served = Served("mine", model.scheme.labels, model.alarm_threshold is not None)
    backend = InProcess(model, Door(model.prompter, config), config)
    return create_app(backend, served, config, hashes)


@contextmanager
def gateway(model: Any, hashes: dict[str, str] | None = None, **settings: Any) -> Iterator[TestClient]:
    """A client of the app over a model; what the app raises is not raised in the test."""
    app = app_of(model, hashes, **settings)
    with TestClient(app, URL, raise_server_exceptions=False) as client:
        yield client


def chat(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "mine", "messages": [{"role": "user", "content": text}], **fields}


@contextmanager
def listening(app: Any) -> Iterator[str]:
    """The URL of an app on a free port of this machine."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
