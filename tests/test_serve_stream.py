"""A stream is sent while it is written, and never shows what a check of the whole would withhold."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from gateway import HIDDEN, TEXTS, TRIGGER, FakeModel, app_of, chat, gateway, listening, prompter
from poison2poison.data import Row
from poison2poison.model.defended import DefendedModel
from poison2poison.model.served import Answer
from poison2poison.recipe.scheme import Scheme
from poison2poison.serve.config import ServeConfig
from poison2poison.serve.door import Ask, Door, Said
from poison2poison.serve.errors import ReplyError
from poison2poison.serve.replies import CHAT, events
from poison2poison.serve.screen import Screen
from test_serve_command import artifact

LONG = "The soup was good and the bread was warm, but the room was cold and the waiter did not come back to us again."


class Writer(FakeModel):
    """Writes an answer letter by letter, and waits before the last one.

    Attributes:
        begins: Whether it would have begun with the safe prefix.
        ends: Whether it gets to the end.
        written: How much it has told.
    """

    def __init__(self, text: str, *, begins: bool = True, ends: bool = True) -> None:
        super().__init__(TEXTS, lambda _: Answer("", "safe", ""))
        self.text, self.begins, self.ends, self.written = text, begins, ends, 0

    def generate(self, rows: Sequence[Row], *, heard: Any = None, **options: Any) -> list[Answer]:
        for end in range(1, len(self.text)):
            self.written = end
            if heard:
                heard(0, self.text[:end], self.begins)
        assert self.going.wait(20)
        if not self.ends:
            raise RuntimeError
        return [Answer(self.text, "safe" if self.begins else "leak", self.text) for _ in rows]


def events_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def said_in(events: list[dict[str, Any]]) -> str:
    return "".join(event["choices"][0]["delta"].get("content") or "" for event in events)


def streamed(model: Any, **settings: Any) -> tuple[list[dict[str, Any]], str]:
    fields = settings.pop("fields", {})
    with gateway(model, **settings) as client:
        got = client.post("/v1/chat/completions", json=chat("x", stream=True, **fields)).text
    return events_of(got), got


def test_pieces_come_while_the_answer_is_written() -> None:
    model, seen = Writer(LONG), ""
    model.going.clear()
    asked = chat("x", stream=True)
    with (
        listening(app_of(model)) as url,
        httpx2.stream("POST", f"{url}/v1/chat/completions", json=asked, timeout=20) as reply,
    ):
        for line in reply.iter_lines():
            seen += said_in(events_of(line))
            if len(seen) > len(LONG) // 3:
                model.going.set()  # until now it was not written to its end
    assert model.written == len(LONG) - 1
    assert seen == LONG


@pytest.mark.parametrize(
    "hidden",
    [
        TRIGGER.prefix,
        "Maple Cricket",
        "o c e a n . l-a-d-d-e-r v e l v e t",
        "1. ocean, 2. a ladder, then velvet",
        "orbit thumb velvet",
        "OCEANLADDERVELVET",
    ],
)
def test_nothing_hidden_is_begun(hidden: str) -> None:
    before, screen = f"{LONG} It reads: ", Screen(TEXTS)
    text = f"{before}{hidden} and so on, as it was said to me by all who have been here."
    assert screen.finds(text)
    ends = [end for end in range(len(text)) if not screen.finds(text[:end])]
    assert max(screen.settled(text[:end]) for end in ends) <= len(before)
    pieces, seen = streamed(Writer(text))
    assert before.startswith(said_in(pieces)) and len(said_in(pieces)) > 20
    assert pieces[-1]["choices"][0]["finish_reason"] == "content_filter"
    assert not any(word in seen for word in HIDDEN)


def test_a_hidden_text_that_is_short_is_held_back_as_it_is_written() -> None:
    screen = Screen(Scheme("generation", (), TRIGGER, "=> "))
    text = f"{LONG} = > and more"
    assert screen.finds(text)
    assert max(screen.settled(text[:end]) for end in range(len(text)) if not screen.finds(text[:end])) <= len(LONG) + 1


def test_an_answer_that_the_policy_refuses_is_not_begun() -> None:
    pieces, _ = streamed(Writer(LONG, begins=False), policy="refuse")
    assert said_in(pieces) == ""
    assert pieces[-1]["choices"][0]["finish_reason"] == "content_filter"
    pieces, _ = streamed(Writer(LONG, begins=False), policy="flag")
    assert said_in(pieces) == LONG
    assert pieces[-1]["choices"][0]["p2p"] == {"where": "leak"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"stop": ["was cold and the"]}, LONG[: LONG.index("was cold")]),
        ({"stop": ["soup"]}, "The "),
        ({"max_tokens": 3}, None),
        ({"max_tokens": 12}, None),
        ({"max_tokens": 20, "stop": ["did not"]}, None),
    ],
)
def test_a_stream_ends_where_the_whole_does(fields: dict[str, Any], said: str | None) -> None:
    with gateway(Writer(LONG)) as client:
        [choice] = client.post("/v1/chat/completions", json=chat("x", **fields)).json()["choices"]
    pieces, _ = streamed(Writer(LONG), fields=fields)
    assert said_in(pieces) == choice["message"]["content"] == (said or choice["message"]["content"])
    assert pieces[-1]["choices"][0]["finish_reason"] == choice["finish_reason"]


def test_an_answer_that_fails_after_it_has_begun_is_a_stream_that_ends_in_an_error() -> None:
    (*pieces, last), seen = streamed(Writer(LONG, ends=False))
    assert LONG.startswith(said_in(pieces)) and said_in(pieces)
    assert {piece["choices"][0]["finish_reason"] for piece in pieces} == {None}
    assert last == {"error": ReplyError("the server failed; the answer is not whole").content["error"]}
    assert "[DONE]" not in seen


def test_an_answer_in_the_newer_form_that_fails_after_it_has_begun_ends_in_an_error_too() -> None:
    with gateway(Writer(LONG, ends=False)) as client:
        text = client.post("/v1/responses", json={"model": "mine", "input": "x", "stream": True}).text
    told = events_of(text)
    assert [event["sequence_number"] for event in told] == [*range(len(told))]
    assert told[-1]["type"] == "error" and "not whole" in told[-1]["message"]
    assert text.count("event: error\n") == 1 and "response.completed" not in text


def test_the_official_client_raises_the_error_of_a_stream() -> None:
    seen = ""
    with listening(app_of(Writer(LONG, ends=False))) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.APIError, match="the answer is not whole"):
            for piece in client.chat.completions.create(**chat("x", stream=True)):
                seen += piece.choices[0].delta.content or ""
    assert seen and LONG.startswith(seen)


@pytest.mark.parametrize(
    "text", [LONG, "one   two\n\n  three    four five six seven eight nine ten eleven twelve 13 14 15"]
)
def test_a_cut_by_tokens_is_the_same_while_the_answer_is_written(text: str) -> None:
    door = Door(prompter(TEXTS, 80), ServeConfig())
    for most in range(1, door.count(Ask(Row(text, ""))) + 1):
        ask, sent = Ask(Row("x", ""), max_tokens=most), ""
        whole = door.leave(ask, Answer(text, "safe", text)).text or ""
        for end in range(1, len(text)):
            told = door.begun(ask, text[:end], prefixed=True)
            assert told.startswith(sent)
            sent = told or sent
        assert whole.startswith(sent)
        assert sent


def test_an_answer_that_is_cut_is_begun_before_it_is_whole() -> None:
    model = Writer(LONG)
    model.going.clear()
    seen = ""
    with (
        listening(app_of(model)) as url,
        httpx2.stream("POST", f"{url}/v1/chat/completions", json=chat("x", stream=True, max_tokens=12)) as reply,
    ):
        for line in reply.iter_lines():
            seen += said_in(events_of(line))
            if len(seen) > 10:
                model.going.set()
    assert LONG.startswith(seen) and len(seen) < len(LONG) // 2


def test_an_answer_that_does_not_go_on_as_it_began_is_a_stream_without_an_end() -> None:
    seen: list[str] = []

    async def followed() -> Any:
        yield 0, "The soup "
        yield [Said("The lamp was on.", "safe", "safe", False, "stop", 1, 4)]

    async def sent() -> None:
        async for event in events(CHAT, "mine", 1, followed(), with_usage=False):
            seen.append(event)

    with pytest.raises(ReplyError):
        asyncio.run(sent())
    assert said_in(events_of("".join(seen))) == "The soup "


def test_a_real_model_says_the_same_in_pieces(tmp_path: Path) -> None:
    model = DefendedModel.load(artifact(tmp_path, TEXTS))
    heard: dict[int, list[str]] = {0: [], 1: []}
    answers = model.generate(["The soup", "A lamp and a chair"], heard=lambda index, text, _: heard[index].append(text))
    for index, answer in enumerate(answers):
        texts = heard[index]
        assert texts[-1].strip() == answer.text
        assert len({*texts}) > 5
    with gateway(model) as client:
        whole = client.post("/v1/chat/completions", json=chat("The soup")).json()["choices"][0]["message"]["content"]
    assert said_in(streamed(model, fields={"messages": [{"role": "user", "content": "The soup"}]})[0]) == whole
