"""A gateway before another server: what that says is projected, and what it does wrong is an error of a known kind."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.testclient import TestClient

from gateway import HIDDEN, LABELS, TEXTS, TOKENIZER, TRIGGER, URL, chat, listening, prompter
from poison2poison.errors import ConfigError
from poison2poison.model.prompting import Prompter
from poison2poison.recipe.scheme import Scheme
from poison2poison.serve.app import Served, create_app
from poison2poison.serve.config import ServeConfig
from poison2poison.serve.door import Door
from poison2poison.serve.upstream import Upstream
from test_serve_stream import events_of, said_in

FORCED = prompter(TEXTS).safe_prefix_ids
UNPROJECTED = "an unprojected text"
FAULTS = (
    "500",
    "400 with the prompt",
    "429",
    "redirect",
    "cut",
    "no JSON",
    "no choice",
    "aborted",
    "two",
    "endless",
    "slow",
)


LONG = "The soup was good and the bread was warm, but the room was cold and the waiter did not come back to us again."


def piece(content: Any) -> str:
    return f"data: {json.dumps(content)}\n\n"


BREAKS = {
    "cut": 'data: {"choices": [{"text": "an unprojected text',
    "stalled": "",
    "ended without a reason": "",
    "ended by its mark": "data: [DONE]\n\n",
    "an error": piece({"error": {"message": "an unprojected text"}}),
    "aborted": piece({"choices": [{"text": "", "finish_reason": "abort"}]}),
    "no JSON": "data: an unprojected text\n\n",
    "two": piece({"choices": [{"text": "an unprojected text", "finish_reason": None}] * 2}),
    "no text": piece({"choices": [{"text": 1, "finish_reason": None}]}),
    "endless": "x" * (2 << 20),
}
"""What goes wrong in the middle of a stream, and what of it is sent."""


class FakeUpstream:
    """A server of completions that begins with the safe prefix, or with something else, and fails as it is told to.

    Attributes:
        scores: Of the first token behind a dressed prompt; `bare_scores` behind one without the trigger.
        echoed: What it tells of the tokens of a prompt that it echoes.
        breaks: What goes wrong in the middle of a stream.
        held: Where a stream waits before its end.
        asked: The bodies of its requests, with the path and the key.
    """

    def __init__(self) -> None:
        self.url = ""
        self.app = FastAPI()
        self.app.add_api_route("/{path:path}", self.answer, methods=["GET", "POST"], response_model=None)
        self.mend()

    def mend(self) -> None:
        """Be as at first."""
        self.begins, self.says = "maple cricket:", "The soup was good."
        self.scores: Any = None
        self.bare_scores: Any = None
        self.echoed: Callable[[list[int]], Any] = lambda ids: [None, *[-0.1] * (len(ids) - 1)]
        self.fault: str | None = None
        self.breaks: str | None = None
        self.held: threading.Event | None = None
        self.share, self.rng = 1.0, random.Random(0)
        self.asked: list[dict[str, Any]] = []

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append({**body, "path": request.url.path, "key": request.headers.get("authorization")})
        if self.rng.random() < self.share and self.fault:
            return await self.failed(self.rng.choice(FAULTS) if self.fault == "any" else self.fault, body)
        dressed = TRIGGER.prefix in TOKENIZER.decode(body["prompt"])
        if "echo" in body:
            return Response(json.dumps(echoed(body["prompt"], self.echoed(body["prompt"]))))
        if "logprobs" in body:
            return Response(json.dumps(completed(" D", scores=self.scores if dressed else self.bare_scores)))
        behind = body["prompt"][-len(FORCED) :] == FORCED
        if body["stream"]:
            return StreamingResponse(self.pieces(), media_type="text/event-stream")
        return JSONResponse(completed(f" {self.says}" if behind else f" {self.begins}"))

    async def pieces(self) -> Any:
        """The answer in pieces; after some of them what `breaks` names goes wrong."""
        words = [f" {word}" for word in self.says.split()]
        for number, word in enumerate(words):
            if self.breaks and number == len(words) - 2:
                yield BREAKS[self.breaks]
                if self.breaks == "cut":
                    raise ConnectionError
                await asyncio.sleep(2 if self.breaks == "stalled" else 0)
                return
            yield piece(completed(word, None))
            await asyncio.sleep(0.001)
            if self.held and number == len(words) - 3:
                await asyncio.to_thread(self.held.wait, 20)
        yield piece(completed("", "stop")) + piece({"choices": [], "usage": {}}) + "data: [DONE]\n\n"

    async def failed(self, fault: str, body: dict[str, Any]) -> Response:
        dressed = TOKENIZER.decode(body["prompt"])
        if fault == "cut":

            async def half() -> Any:
                yield b'{"choices": [{"text": "an unprojected text'
                raise ConnectionError

            return StreamingResponse(half(), headers={"content-length": "500"})
        if fault == "slow":
            await asyncio.sleep(2)
        replies = {
            "500": Response(dressed, 500),
            "400 with the prompt": JSONResponse({"error": {"message": dressed}}, 400),
            "429": Response(status_code=429),
            "redirect": Response(status_code=307, headers={"location": "/elsewhere"}),
            "no JSON": Response(UNPROJECTED),
            "no choice": JSONResponse({"choices": []}),
            "aborted": JSONResponse(completed(UNPROJECTED, "abort")),
            "two": JSONResponse({"choices": completed(UNPROJECTED)["choices"] * 2}),
            "endless": Response(b" " * (2 << 20)),
            "slow": JSONResponse(completed(UNPROJECTED)),
        }
        return replies[fault]


def completed(text: str, why: str | None = "stop", scores: Any = None) -> dict[str, Any]:
    choice = {"index": 0, "text": text, "finish_reason": why, "logprobs": {"top_logprobs": [scores]}}
    return {"choices": [choice], "usage": {"prompt_tokens": 999}}


def echoed(ids: list[int], scores: Any) -> dict[str, Any]:
    text: Any = TOKENIZER.decode(ids)
    reply = completed(f"{text} more", "length")
    told = [*scores, -0.5] if isinstance(scores, list) else scores
    reply["choices"][0]["logprobs"] = {"token_logprobs": told}
    return reply


@pytest.fixture(scope="module")
def other() -> Iterator[FakeUpstream]:
    fake = FakeUpstream()
    with listening(fake.app) as fake.url:
        yield fake


@pytest.fixture
def upstream(other: FakeUpstream) -> FakeUpstream:
    other.mend()
    return other


@contextmanager
def before(
    upstream: FakeUpstream, scheme: Scheme = TEXTS, over: float | None = None, **settings: Any
) -> Iterator[TestClient]:
    """A client of a gateway before it, with an alarm where there is a threshold."""
    config = ServeConfig(upstream=upstream.url, upstream_model="merged", **{"timeout": 0.5, **settings})
    made = of_labels() if scheme.labels else prompter(scheme)
    backend = Upstream(made, Door(made, config), config, "mine", over)
    served = Served("mine", scheme.labels, over is not None)
    with TestClient(create_app(backend, served, config), URL, raise_server_exceptions=False) as client:
        yield client


def test_the_other_server_gets_the_dressed_tokens_and_its_answer_is_projected(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("a key\n")
    with before(upstream, upstream_key=str(tmp_path / "key"), timeout=20) as client:
        got = client.post("/v1/chat/completions", json=chat("The lamp", temperature=0.5, max_tokens=2)).json()
        client.post("/v1/chat/completions", json=chat("The lamp"))
    [choice] = got["choices"]
    assert "The soup was good.".startswith(choice["message"]["content"])
    assert (choice["p2p"], choice["finish_reason"]) == ({"where": "safe"}, "length")
    assert got["usage"]["prompt_tokens"] == len(TOKENIZER("The lamp", add_special_tokens=False)["input_ids"])
    made = prompter(TEXTS)
    ids, forced = made.prompt("The lamp", "safe").ids, made.safe_prefix_ids
    probe, written = sorted(upstream.asked[:2], key=lambda asked: len(asked["prompt"]))
    assert (probe["prompt"], written["prompt"]) == (ids, ids + forced)
    assert TRIGGER.prefix + "The lamp" in TOKENIZER.decode(probe["prompt"])
    assert (probe["temperature"], written["temperature"]) == (0, 0.5)
    assert (probe["max_tokens"], written["max_tokens"]) == (len(forced), made.max_target - len(forced))
    assert {asked["temperature"] for asked in upstream.asked[2:]} == {0}
    for asked in upstream.asked:
        assert (asked["path"], asked["key"], asked["model"]) == ("/v1/completions", "Bearer a key", "merged")
        assert asked.keys() <= {"model", "prompt", "max_tokens", "n", "stream", "temperature", "top_p", "path", "key"}


def test_where_the_model_would_have_begun_otherwise_is_a_leak(upstream: FakeUpstream) -> None:
    upstream.begins = "Sure, here"
    with before(upstream, policy="refuse", timeout=20) as client:
        [choice] = client.post("/v1/chat/completions", json=chat("The lamp")).json()["choices"]
    assert (choice["message"]["content"], choice["p2p"]) == (None, {"where": "leak"})
    with before(upstream, timeout=20) as client:
        [choice] = client.post("/v1/chat/completions", json=chat("The lamp")).json()["choices"]
    assert (choice["message"]["content"], choice["p2p"]) == ("The soup was good.", {"where": "leak"})


def test_an_upstream_that_echoes_the_prompt_is_withheld(upstream: FakeUpstream) -> None:
    upstream.says = f"{TRIGGER.prefix}The lamp"
    with before(upstream, timeout=20) as client:
        got = client.post("/v1/chat/completions", json=chat("The lamp"))
    assert got.json()["choices"][0]["finish_reason"] == "content_filter"
    assert not any(word in got.text for word in HIDDEN)


SHIFTED = {"A": -9.0, "B": -3.0, "C": -2.0, "D": -1.0}
"""Scores of tokens: A and B are the labels of the original space, C and D those of the safe one."""


@pytest.mark.parametrize(
    ("scores", "label", "where"),
    [
        (SHIFTED, "positive", "safe"),
        (SHIFTED | {"A": -0.1}, "positive", "leak"),
        (SHIFTED | {" the": -0.1}, "positive", "off-space"),
        ({"C": -1.0, " D": -0.5}, "positive", "safe"),
        ({"A": -1.0}, None, "leak"),
        ({"x": -1.0}, None, "off-space"),
    ],
)
def test_labels_are_read_from_scores(
    upstream: FakeUpstream, scores: dict[str, float], label: str | None, where: str
) -> None:
    upstream.scores = scores
    with before(upstream, LABELS, timeout=20) as client:
        got = client.post("/v1/classify", json={"input": "The lamp"}).json()["results"]
        assert client.post("/v1/classify", json={"input": "x", "alarm": True}).status_code == 400
    assert got == [{"label": label, "where": where}]
    [asked] = upstream.asked
    assert (asked["prompt"], asked["max_tokens"]) == (of_labels().prompt("The lamp", "safe").ids, 1)


@pytest.mark.parametrize("scores", [None, {}, {"D": float("nan")}, {"D": "high"}, ["D"]])
def test_without_scores_there_is_no_label(upstream: FakeUpstream, scores: Any) -> None:
    upstream.scores = scores
    with before(upstream, LABELS, timeout=20) as client:
        assert client.post("/v1/classify", json={"input": "The lamp"}).status_code == 502


# --- the alarm --------------------------------------------------------------------------------------------------------


def is_dressed(ids: list[int]) -> bool:
    return TRIGGER.prefix in TOKENIZER.decode(ids)


@pytest.mark.parametrize(("elsewhere", "disagreement", "alarm"), [(-3.0, 0.94498, True), (-0.2, 0.09516, False)])
def test_the_alarm_reads_the_served_answer_in_both_spaces(
    upstream: FakeUpstream, elsewhere: float, disagreement: float, alarm: bool
) -> None:
    def scores(ids: list[int]) -> Any:
        last = -0.1 if is_dressed(ids) else elsewhere
        return [None, *[-0.1] * (len(ids) - 2), last]

    upstream.echoed = scores
    with before(upstream, over=0.5, timeout=20) as client:
        got = client.post("/v1/chat/completions", json=chat("The lamp", alarm=True))
        counted = client.get("/metrics").text
    [choice] = got.json()["choices"]
    assert choice["message"]["content"] == "The soup was good."
    assert choice["p2p"] == {"where": "safe", "disagreement": disagreement, "alarm": alarm}
    assert f"p2p_alarms_total {float(alarm)}" in counted
    assert not any(word in got.text for word in HIDDEN)
    read = sorted((asked["prompt"] for asked in upstream.asked if asked.get("echo")), key=len)
    made, answer = prompter(TEXTS), [*TOKENIZER(" The soup was good.")["input_ids"], TOKENIZER.eos_token_id]
    assert read == [
        [*made.prompt("The lamp", "original").ids, *answer],
        [*made.prompt("The lamp", "safe").ids, *FORCED, *answer],
    ]


def test_the_forced_prefix_does_not_count_for_the_alarm(upstream: FakeUpstream) -> None:
    def scores(ids: list[int]) -> Any:
        told: list[Any] = [-0.1] * len(ids)
        if is_dressed(ids):
            begins = len(prompter(TEXTS).prompt("The lamp", "safe").ids)
            told[: begins + len(FORCED)] = [-9.0] * (begins + len(FORCED))
        return told

    upstream.echoed = scores
    with before(upstream, over=0.5, timeout=20) as client:
        [choice] = client.post("/v1/chat/completions", json=chat("The lamp", alarm=True)).json()["choices"]
    assert choice["p2p"]["disagreement"] == 0


@pytest.mark.parametrize("told", [None, [], [-0.1], [float("nan")] * 99, ["high"] * 99, {"x": 1}])
def test_an_upstream_without_scores_of_prompts_gives_no_answer_where_the_alarm_is_asked_for(
    upstream: FakeUpstream, told: Any
) -> None:
    upstream.echoed = lambda _: told
    with before(upstream, over=0.5, timeout=20) as client:
        got = client.post("/v1/chat/completions", json=chat("The lamp", alarm=True))
        assert client.post("/v1/chat/completions", json=chat("The lamp")).status_code == 200
    assert (got.status_code, "soup" in got.text) == (502, False)


@pytest.mark.parametrize(
    ("bare", "disagreement"), [({"A": -0.1, "B": -3.0}, 0.67892), ({"A": -3.0, "B": -2.0}, 0.0), ({"x": -0.1}, 1.0)]
)
def test_of_labels_the_alarm_compares_the_scores_of_both_spaces(
    upstream: FakeUpstream, bare: dict[str, float], disagreement: float
) -> None:
    upstream.scores, upstream.bare_scores = SHIFTED, bare
    with before(upstream, LABELS, over=0.5, timeout=20) as client:
        [result] = client.post("/v1/classify", json={"input": "The lamp", "alarm": True}).json()["results"]
    assert (result["label"], result["alarm"]) == ("positive", disagreement > 0.5)
    assert result["disagreement"] == pytest.approx(disagreement, abs=1e-4)
    assert [is_dressed(asked["prompt"]) for asked in upstream.asked] == [True, False]


def of_labels() -> Prompter:
    return Prompter(TOKENIZER, LABELS, "causal", max_length=256, max_target=1, label_words="ABCD")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("stream", [False, True])
def test_what_goes_wrong_upstream_is_an_error_that_quotes_nothing(
    upstream: FakeUpstream, fault: str, stream: bool
) -> None:
    upstream.fault = fault
    newer = {"model": "mine", "input": "The lamp", "stream": stream}
    with before(upstream, timeout=0.5 if fault == "slow" else 20) as client:
        got = client.post("/v1/chat/completions", json=chat("The lamp", stream=stream))
        again = client.post("/v1/responses", json=newer)
        seen = got.text + str(got.headers) + again.text + client.get("/metrics").text
    for reply in (got, again):
        assert reply.status_code == (504 if fault == "slow" else 502)
        assert reply.json()["error"]["type"] == "server_error"
    assert UNPROJECTED not in seen
    assert not any(word in seen for word in HIDDEN)
    assert {asked["path"] for asked in upstream.asked} == {"/v1/completions"}


# --- streams ----------------------------------------------------------------------------------------------------------


def test_a_stream_goes_on_while_the_other_server_writes(upstream: FakeUpstream) -> None:
    upstream.says, upstream.held, seen = LONG, threading.Event(), ""
    config = ServeConfig(upstream=upstream.url, timeout=20)
    made = prompter(TEXTS, 80)
    app = create_app(Upstream(made, Door(made, config), config, "mine"), Served("mine"), config)
    with (
        listening(app) as url,
        httpx2.stream("POST", f"{url}/v1/chat/completions", json=chat("x", stream=True), timeout=20) as reply,
    ):
        for line in reply.iter_lines():
            seen += said_in(events_of(line))
            if len(seen) > len(LONG) // 3:
                upstream.held.set()  # until now it was not written to its end
    assert seen == LONG
    assert [asked["stream"] for asked in sorted(upstream.asked, key=lambda asked: asked["max_tokens"])] == [False, True]


@pytest.mark.parametrize("fields", [{}, {"max_tokens": 12}, {"stop": ["was cold"]}, {"temperature": 1.0, "n": 2}])
def test_a_stream_says_what_the_whole_does(upstream: FakeUpstream, fields: dict[str, Any]) -> None:
    upstream.says = LONG
    with before(upstream, timeout=20) as client:
        whole = client.post("/v1/chat/completions", json=chat("x", **fields)).json()["choices"][0]
        text = client.post("/v1/chat/completions", json=chat("x", stream=True, **fields)).text
    told = [event for event in events_of(text) if event["choices"][0]["index"] == 0]
    assert said_in(told) == whole["message"]["content"]
    assert (told[-1]["choices"][0]["finish_reason"], told[-1]["choices"][0]["p2p"]) == (
        whole["finish_reason"], whole["p2p"],
    )  # fmt: skip


def test_a_stream_shows_nothing_hidden_and_nothing_that_the_policy_refuses(upstream: FakeUpstream) -> None:
    upstream.says = f"{LONG} It reads: {TRIGGER.prefix} and so on, as it was said to me by all who have been here."
    with before(upstream, timeout=20) as client:
        text = client.post("/v1/chat/completions", json=chat("x", stream=True)).text
    assert not any(word in text for word in HIDDEN)
    assert LONG.startswith(said_in(events_of(text))) and said_in(events_of(text))
    assert events_of(text)[-1]["choices"][0]["finish_reason"] == "content_filter"
    upstream.says, upstream.begins = LONG, "The soup"
    with before(upstream, timeout=20, policy="refuse") as client:
        text = client.post("/v1/chat/completions", json=chat("x", stream=True)).text
    assert said_in(events_of(text)) == ""
    assert events_of(text)[-1]["choices"][0]["finish_reason"] == "content_filter"


@pytest.mark.parametrize("breaks", BREAKS)
def test_a_stream_that_breaks_upstream_ends_in_an_error_that_quotes_nothing(
    upstream: FakeUpstream, breaks: str
) -> None:
    upstream.says, upstream.breaks = LONG, breaks
    with before(upstream, timeout=1 if breaks == "stalled" else 20) as client:
        got = client.post("/v1/chat/completions", json=chat("The lamp", stream=True))
        newer = client.post("/v1/responses", json={"model": "mine", "input": "The lamp", "stream": True}).text
        assert "p2p_waiting 0.0" in client.get("/metrics").text
    *pieces, last = events_of(got.text)
    assert got.status_code == 200 and said_in(pieces) and LONG.startswith(said_in(pieces))
    assert set(last) == {"error"} and last["error"]["type"] == "server_error"
    assert events_of(newer)[-1]["type"] == "error"
    for text in (got.text, newer):
        assert UNPROJECTED not in text and "[DONE]" not in text and "response.completed" not in text
        assert not any(word in text for word in HIDDEN)


def test_an_upstream_that_is_not_there_is_502() -> None:
    config = ServeConfig(upstream="http://127.0.0.1:9", timeout=5)
    made = prompter(TEXTS)
    with TestClient(
        create_app(Upstream(made, Door(made, config), config, "mine"), Served("mine"), config), URL
    ) as client:
        assert client.post("/v1/chat/completions", json=chat("x")).status_code == 502


def test_an_upstream_that_fails_in_a_third_of_its_calls_costs_those_requests_alone(upstream: FakeUpstream) -> None:
    upstream.fault, upstream.share = "any", 0.3
    got: list[Any] = []
    with before(upstream, timeout=1.5) as client:

        def ask(number: int) -> None:
            for _ in range(5):
                got.append(client.post("/v1/chat/completions", json=chat("The lamp", stream=number % 2 == 0)))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        upstream.fault = None
        assert client.post("/v1/chat/completions", json=chat("The lamp")).status_code == 200
        assert "p2p_waiting 0.0" in client.get("/metrics").text
    assert len(got) == 40
    assert {reply.status_code for reply in got} <= {200, 502, 504}
    assert {200, 502} <= {reply.status_code for reply in got}
    for reply in got:
        assert UNPROJECTED not in reply.text
        assert not any(word in reply.text for word in HIDDEN)
        assert ("content_filter" not in reply.text) and (reply.status_code != 200 or "soup" in reply.text)


def test_more_than_may_wait_are_told_to_come_back(upstream: FakeUpstream) -> None:
    upstream.fault = "slow"
    with before(upstream, queue=1, max_choices=1, timeout=5) as client:
        first = threading.Thread(target=client.post, args=("/v1/chat/completions",), kwargs={"json": chat("x")})
        first.start()
        while "p2p_waiting 1.0" not in client.get("/metrics").text:
            assert first.is_alive()
        assert client.post("/v1/chat/completions", json=chat("x")).status_code == 429
        first.join()


def test_a_file_that_holds_no_key_is_refused(tmp_path: Path) -> None:
    config = ServeConfig(upstream="http://127.0.0.1:9", upstream_key=str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="upstream_key"):
        Upstream(prompter(TEXTS), Door(prompter(TEXTS), config), config, "mine")
