"""Clients of OpenAI's API get answers in its forms, and refusals that say what is not supported."""

from __future__ import annotations

import json
import re
import threading
from typing import Any

import openai
import pytest

from gateway import HIDDEN, LABELS, TEXTS, TOKENIZER, URL, FakeModel, chat, echo, gateway, safe
from poison2poison.data import Row
from poison2poison.model.served import Answer


def client_of(client: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{URL}/v1", api_key="none", http_client=client, max_retries=0)


def test_the_official_client_works_unchanged() -> None:
    with gateway(FakeModel(TEXTS, echo)) as client:
        ours = client_of(client)
        assert [model.id for model in ours.models.list()] == ["mine"]
        messages: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "The soup was good."}]
        whole = ours.chat.completions.create(model="mine", messages=messages, temperature=0)
        assert whole.choices[0].message.content == "The soup was good."
        assert whole.choices[0].finish_reason == "stop"
        pieces = [*ours.chat.completions.create(model="mine", messages=messages, stream=True)]
        said = [piece.choices[0].delta.content or "" for piece in pieces]
        assert len([piece for piece in said if piece]) > 1
        assert "".join(said) == "The soup was good."
        assert pieces[-1].choices[0].finish_reason == "stop"
        texts = ours.completions.create(model="mine", prompt=["one", "two"], n=2)
        assert [choice.text for choice in texts.choices] == ["one", "one", "two", "two"]


def test_the_newer_form_of_the_official_client_works_unchanged() -> None:
    with gateway(FakeModel(TEXTS, echo)) as client:
        ours = client_of(client).responses
        whole = ours.create(model="mine", input="The soup was good.", instructions="Be brief.", temperature=0)
        assert (whole.output_text, whole.status, whole.incomplete_details) == ("The soup was good.", "completed", None)
        chat: Any = [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
            *(item.to_dict() for item in whole.output),
            {"type": "message", "role": "user", "content": "And the room?"},
        ]
        again = ours.create(model="mine", input=chat)
        assert again.output_text == "And the room?"
        assert whole.usage and again.usage
        read = len(TOKENIZER("The soup was good.", add_special_tokens=False)["input_ids"])
        assert (whole.usage.output_tokens, whole.usage.total_tokens) == (read, whole.usage.input_tokens + read)
        assert again.usage.input_tokens > whole.usage.input_tokens
        short = ours.create(model="mine", input="The soup was good.", max_output_tokens=2)
        assert short.incomplete_details and short.incomplete_details.reason == "max_output_tokens"
        assert "The soup was good.".startswith(short.output_text)


def test_the_newer_form_streams_events_that_are_together_the_answer() -> None:
    with gateway(FakeModel(TEXTS, echo)) as client:
        ours = client_of(client).responses
        events: list[Any] = [*ours.create(model="mine", input="The soup was good.", stream=True)]
        with ours.stream(model="mine", input="The soup was good.") as stream:
            final = stream.get_final_response()
    assert [event.sequence_number for event in events] == [*range(len(events))]
    said = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert len(said) > 1
    assert "".join(said) == "The soup was good."
    assert [events[0].type, events[-1].type] == ["response.created", "response.completed"]
    assert events[-1].response.output_text == final.output_text == "The soup was good."


@pytest.mark.parametrize("stream", [False, True])
def test_the_newer_form_withholds_and_marks_as_the_older_ones_do(stream: bool) -> None:
    with gateway(FakeModel(TEXTS, lambda _: Answer("ocean ladder velvet", "leak", None, 0.75, True))) as client:
        got = client.post("/v1/responses", json={"model": "mine", "input": "x", "alarm": True, "stream": stream})
    last = json.loads(got.text.strip().splitlines()[-1].removeprefix("data: "))
    whole = last["response"] if stream else last
    assert (whole["status"], whole["incomplete_details"]) == ("incomplete", {"reason": "content_filter"})
    assert [part["type"] for part in whole["output"][0]["content"]] == ["refusal"]
    assert whole["p2p"] == {"where": "leak", "disagreement": 0.75, "alarm": True}
    assert not any(word in got.text for word in HIDDEN)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id: is not supported"),
        ({"store": True}, "store: is not supported"),
        ({"tools": [{"type": "web_search"}]}, "tools: is not supported"),
        ({"text": {"format": {"type": "json_object"}}}, "text: is not supported"),
        ({"n": 2}, "n: Extra inputs"),
        ({"input": []}, "input: "),
        ({"input": [{"type": "function_call_output", "call_id": "1", "output": "x"}]}, "no message"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input: "),
        ({"input": [{"role": "assistant", "content": "Yes"}]}, "input: "),
    ],
)
def test_what_the_newer_form_does_not_support_is_refused_by_name(fields: dict[str, Any], said: str) -> None:
    with gateway(FakeModel(TEXTS, echo)) as client:
        got = client.post("/v1/responses", json={"model": "mine", "input": "x", **fields})
    assert got.status_code == 400
    assert said in got.json()["error"]["message"]


def test_usage_counts_the_clients_own_texts_and_what_it_is_given() -> None:
    with gateway(FakeModel(TEXTS, lambda _: safe("A good book."))) as client:
        given = client.post("/v1/chat/completions", json=chat("The lamp")).json()["usage"]
        read, written = (
            len(TOKENIZER(text, add_special_tokens=False)["input_ids"]) for text in ("The lamp", "A good book.")
        )
        assert given == {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        streamed = client.post(
            "/v1/chat/completions", json=chat("The lamp", stream=True, stream_options={"include_usage": True})
        )
        events = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")]
        assert events[-1]["usage"] == given
        assert streamed.text.endswith("data: [DONE]\n\n")


def test_labels_are_classified_with_the_alarm_where_it_is_asked_for() -> None:
    def say(row: Row) -> Answer:
        return Answer("negative", "safe", "negative", 0.75, True) if "bad" in row.prompt else safe("positive")

    with gateway(FakeModel(LABELS, say)) as client:
        got = client.post("/v1/classify", json={"input": ["bad", "good"]}).json()["results"]
        assert got[0] == {"label": "negative", "where": "safe", "disagreement": 0.75, "alarm": True}
        assert got[1] == {"label": "positive", "where": "safe"}
        assert (
            client.post("/v1/chat/completions", json=chat("good")).json()["choices"][0]["message"]["content"]
            == "positive"
        )
        assert "p2p_alarms_total 1.0" in client.get("/metrics").text


def test_texts_have_the_alarm_where_it_is_asked_for() -> None:
    model = FakeModel(TEXTS, lambda row: Answer(row.prompt, "safe", None, 0.75, row.prompt == "bad"))
    with gateway(model) as client:
        got = client_of(client).chat.completions.create(
            model="mine", messages=[{"role": "user", "content": "bad"}], extra_body={"alarm": True}
        )
        assert got.to_dict()["choices"][0]["p2p"] == {"where": "safe", "disagreement": 0.75, "alarm": True}  # type: ignore[index]
        texts = client.post("/v1/completions", json={"model": "mine", "prompt": ["good", "bad"], "alarm": True})
        assert [choice["p2p"]["alarm"] for choice in texts.json()["choices"]] == [False, True]
        streamed = client.post(
            "/v1/completions", json={"model": "mine", "prompt": "bad", "alarm": True, "stream": True}
        )
        assert '"alarm": true' in streamed.text
        assert "p2p_alarms_total 3.0" in client.get("/metrics").text
        assert [one["alarm"] for one in client.get("/recent").json()] == [True] * 3
    assert {options["alarm"] for _, options in model.batches} == {True}


def test_a_model_without_an_alarm_says_so() -> None:
    model = FakeModel(TEXTS, echo)
    model.alarm_threshold = None
    with gateway(model) as client:
        got = client.post("/v1/chat/completions", json=chat("x", alarm=True))
    assert (got.status_code, got.json()["error"]["message"]) == (400, "alarm: this model has none")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_stop_and_max_tokens_cut_what_is_given_out(path: str) -> None:
    body: dict[str, Any] = chat("x") if "chat" in path else {"model": "mine", "prompt": "x"}
    with gateway(FakeModel(TEXTS, lambda _: safe("The soup was good. The room was dull."))) as client:

        def choice(**fields: Any) -> tuple[str, str]:
            [found] = client.post(path, json={**body, **fields}).json()["choices"]
            return found["message"]["content"] if "chat" in path else found["text"], found["finish_reason"]

        assert choice(stop=" The room") == ("The soup was good.", "stop")
        assert choice(stop=["nowhere", "was"]) == ("The soup ", "stop")
        text, why = choice(max_tokens=2)
        assert why == "length"
        assert "The soup was good.".startswith(text)
        assert len(TOKENIZER(text, add_special_tokens=False)["input_ids"]) == 2


def test_temperature_0_is_greedy_and_others_are_sampled_without_a_hidden_top_k() -> None:
    model = FakeModel(TEXTS, echo)
    with gateway(model) as client:
        for fields in ({}, {"temperature": 0}, {"temperature": 1e-9}, {"temperature": 0.5, "top_p": 0.9}):
            client.post("/v1/chat/completions", json=chat("x", **fields))
    sampled = {"do_sample": True, "temperature": 0.5, "top_p": 0.9, "top_k": 0}
    assert [options for _, options in model.batches] == [{"alarm": False}] * 3 + [{"alarm": False, **sampled}]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"logprobs": True}, "logprobs: is not supported"),
        ({"logprobs": 0}, "logprobs: is not supported"),
        ({"seed": 1}, "seed: is not supported"),
        ({"tools": [{"type": "function"}]}, "tools: is not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format: is not supported"),
        ({"echo": True}, "echo: is not supported"),
        ({"logit_bias": {"5": 100}}, "logit_bias: is not supported"),
        ({"chat_template": "{{ messages }}"}, "chat_template: Extra inputs"),
        ({"add_generation_prompt": False}, "add_generation_prompt: Extra inputs"),
        ({"temperature": 3}, "temperature: Input should be less than or equal to 2"),
        ({"temperature": float("nan")}, "temperature: "),
        ({"n": 0}, "n: Input should be greater than or equal to 1"),
        ({"n": 9}, "a request has 8 answers at most"),
        ({"stop": list("abcde")}, "stop: give at most four texts"),
        ({"messages": []}, "messages: "),
        ({"messages": [{"role": "assistant", "content": "Yes"}]}, "messages: "),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "answered already"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}, "messages: "),
        ({"messages": [{"role": "user", "content": "\ud83d"}]}, "half a character"),
        ({"messages": [{"role": "user", "content": "soup " * 300}]}, "too long"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(fields: dict[str, Any], said: str) -> None:
    with gateway(FakeModel(TEXTS, echo)) as client:
        body = json.dumps(chat("x") | fields)
        got = client.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert got.status_code == 400
    error = got.json()["error"]
    assert said in error["message"]
    assert error["type"] == "invalid_request_error"
    assert not any(word in got.text for word in HIDDEN)


@pytest.mark.parametrize(
    "body", ["", "{", "[]", "null", '"x"', '{"model": 1}', "[" * 5000, '{"\\ud83d": 1}', '{"n": ' + "9" * 5000 + "}"]
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/classify"])
def test_bodies_that_are_no_request_are_refused(path: str, body: str) -> None:
    with gateway(FakeModel(TEXTS, echo)) as client:
        got = client.post(path, content=body, headers={"content-type": "application/json"})
    assert got.status_code == 400
    assert got.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/tokenize", "/docs", "/v1/chat/completions/", "/props", "/v1"])
def test_everything_else_is_404(path: str) -> None:
    with gateway(FakeModel(TEXTS, echo)) as client:
        for method in ("GET", "POST"):
            got = client.request(method, path, follow_redirects=False)
            assert got.status_code == 404
            assert got.json()["error"]["message"] == "there is no such endpoint"


def test_another_model_is_unknown() -> None:
    with gateway(FakeModel(TEXTS, echo)) as client, pytest.raises(openai.NotFoundError, match="no such model"):
        client_of(client).completions.create(model="other", prompt="x")


def test_requests_that_wait_are_answered_together() -> None:
    model = FakeModel(TEXTS, echo)
    model.going.clear()
    with gateway(model, batch=4) as client:
        asked = [{"model": "mine", "prompt": str(i), "temperature": 0.5 * (i == 3)} for i in range(7)]
        got: dict[str, str] = {}

        def ask(body: dict[str, Any]) -> None:
            got[body["prompt"]] = client.post("/v1/completions", json=body).json()["choices"][0]["text"]

        threads = [threading.Thread(target=ask, args=(body,)) for body in asked]
        for number, thread in enumerate(threads):
            thread.start()
            while f"p2p_waiting {max(0, number)}.0" not in client.get("/metrics").text:
                assert thread.is_alive()
        model.going.set()
        for thread in threads:
            thread.join()
    assert got == {str(i): str(i) for i in range(7)}
    assert [texts for texts, _ in model.batches] == [["0"], ["1", "2", "4", "5"], ["3"], ["6"]]


def test_health_and_readiness() -> None:
    with gateway(FakeModel(TEXTS, echo)) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/readyz").json() == {"ready": True}
        page = client.get("/")
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "://" not in page.text
        assert {*re.findall(r'at\("(\w+)"\)', page.text)} <= {*re.findall(r'id="(\w+)"', page.text)}
