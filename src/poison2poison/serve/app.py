"""The endpoints. Everything else is a 404."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from poison2poison.serve.backends import Backend, Tell
from poison2poison.serve.config import ServeConfig
from poison2poison.serve.door import Ask, Said
from poison2poison.serve.errors import LateError, RefusedError, ReplyError, UnknownError
from poison2poison.serve.gate import Gate
from poison2poison.serve.metrics import Metrics
from poison2poison.serve.page import CONTENT_POLICY, PAGE
from poison2poison.serve.replies import (
    CHAT,
    TEXT,
    Followed,
    Form,
    completion,
    events,
    failure,
    marks,
    told_of_failure,
    usage,
)
from poison2poison.serve.responses import Response as Answered
from poison2poison.serve.schemas import Asked, ChatAsked, LabelsAsked, ResponseAsked, TextAsked


@dataclass(frozen=True)
class Served:
    """What clients may know of the model.

    Attributes:
        name: How they call it.
        labels: Those that it gives; none for a model that writes.
        alarm: Whether it can compare the two spaces.
    """

    name: str
    labels: tuple[str, ...] = ()
    alarm: bool = False


class _Desk:
    """What the endpoints share: one model, its limits, its counters."""

    def __init__(self, backend: Backend, served: Served, config: ServeConfig) -> None:
        self.backend, self.served, self.config = backend, served, config
        self.metrics = Metrics(lambda: backend.waiting)

    async def answer(self, request: Request, asks: Sequence[Ask], tell: Tell | None = None) -> list[Said]:
        """The answers, counted; `tell` is as of a backend.

        Raises:
            ReplyError: There are too many inputs, or one has no answer in time.
        """
        if len(asks) > self.config.max_choices:
            raise RefusedError(f"a request has {self.config.max_choices} answers at most: inputs times n", param="n")
        try:
            said = await asyncio.wait_for(self.backend.answer(asks, tell), self.config.timeout)
        except asyncio.TimeoutError:
            raise LateError(f"there is no answer within {self.config.timeout:g} seconds") from None
        self.metrics.answers(request.scope["state"]["request"], said)
        return said

    def check_asked(self, asked: Asked | LabelsAsked) -> None:
        """Refuse another model's name, and an alarm where there is none."""
        if asked.model not in (None, self.served.name):
            raise UnknownError("there is no such model; /v1/models names it", code="model_not_found", param="model")
        if asked.alarm and not self.served.alarm:
            raise RefusedError("alarm: this model has none", param="alarm")

    async def complete(self, request: Request, asked: ChatAsked | TextAsked, form: Form) -> Response:
        """A completion, whole or in pieces. Its status is known before anything of it is sent."""
        self.check_asked(asked)
        asks = _asks(asked, self.config.max_choices)
        if not asked.stream:
            return JSONResponse(completion(form, self.served.name, await self.answer(request, asks)))
        followed = await self._followed(request, asks)
        pieces = events(form, self.served.name, len(asks), followed, with_usage=asked.usage_in_stream)
        return StreamingResponse(told_of_failure(pieces, failure), media_type="text/event-stream")

    async def _followed(self, request: Request, asks: Sequence[Ask]) -> Followed:
        """As of `_follow`, once there is something to tell: an error before that has a status of its own.

        Raises:
            ReplyError: As of `answer`.
        """
        later = self._follow(request, asks)
        first = await anext(later)
        return _behind(first, later)

    async def _follow(self, request: Request, asks: Sequence[Ask]) -> Followed:
        """Answers while they are written, and then as wholes."""
        told: asyncio.Queue[tuple[int, str] | None] = asyncio.Queue()
        answering = asyncio.create_task(self.answer(request, asks, lambda index, text: told.put_nowait((index, text))))
        answering.add_done_callback(lambda _: told.put_nowait(None))
        try:
            while (one := await told.get()) is not None:
                yield one
            yield answering.result()
        finally:
            answering.cancel()

    async def respond(self, request: Request, asked: ResponseAsked) -> Response:
        """The same in the newer form."""
        self.check_asked(asked)
        asks, answered = [asked.ask(asked.row())], Answered(self.served.name)
        if not asked.stream:
            [said] = await self.answer(request, asks)
            return JSONResponse(answered.whole(said))
        events = answered.events(await self._followed(request, asks))
        return StreamingResponse(told_of_failure(events, answered.failure), media_type="text/event-stream")

    async def classify(self, request: Request, asked: LabelsAsked) -> Response:
        """A label for each input."""
        if not self.served.labels:
            raise RefusedError("this model writes texts; ask /v1/chat/completions")
        self.check_asked(asked)
        asks = [Ask(row, alarm=asked.alarm) for row in asked.rows()]
        said = await self.answer(request, asks)
        results = [{"label": one.text, **marks(one)} for one in said]
        return JSONResponse({"model": self.served.name, "results": results, "usage": usage(said)})

    def models(self) -> dict[str, Any]:
        """The one model, in OpenAI's form."""
        about = {"labels": self.served.labels, "alarm": self.served.alarm, "policy": self.config.policy}
        model = {"id": self.served.name, "object": "model", "created": 0, "owned_by": "p2p", "p2p": about}
        return {"object": "list", "data": [model]}


def create_app(backend: Backend, served: Served, config: ServeConfig, hashes: Mapping[str, str] | None = None) -> Gate:
    """The app, with the gate around it.

    Args:
        backend: Who answers.
        served: What clients may know of it.
        config: Limits and policy.
        hashes: Of keys, by names; without them all may ask.
    """
    desk = _Desk(backend, served, config)

    @asynccontextmanager
    async def living(_: FastAPI) -> AsyncIterator[None]:
        backend.start()
        yield
        await backend.close()

    app = FastAPI(
        title=f"{served.name}, defended", docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=living
    )
    _add_asking(app, desk)
    _add_watching(app, desk)
    _add_errors(app)
    paths = frozenset(path for route in app.routes if (path := getattr(route, "path", None)))
    return Gate(app, config, desk.metrics, hashes or {}, paths)


def _add_asking(app: FastAPI, desk: _Desk) -> None:
    @app.post("/v1/chat/completions", response_model=None)
    async def chat(request: Request, asked: ChatAsked) -> Response:
        return await desk.complete(request, asked, CHAT)

    @app.post("/v1/completions", response_model=None)
    async def texts(request: Request, asked: TextAsked) -> Response:
        return await desk.complete(request, asked, TEXT)

    @app.post("/v1/responses", response_model=None)
    async def respond(request: Request, asked: ResponseAsked) -> Response:
        return await desk.respond(request, asked)

    @app.post("/v1/classify", response_model=None)
    async def classify(request: Request, asked: LabelsAsked) -> Response:
        return await desk.classify(request, asked)


def _add_watching(app: FastAPI, desk: _Desk) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return desk.models()

    @app.get("/healthz")
    async def alive() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", response_model=None)
    async def ready() -> Response:
        return JSONResponse({"ready": desk.backend.ready}, 200 if desk.backend.ready else 503)

    @app.get("/metrics", response_model=None)
    async def metrics() -> Response:
        return Response(desk.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/recent")
    async def recent() -> list[dict[str, Any]]:
        return [*desk.metrics.recent]

    @app.get("/", response_class=HTMLResponse)
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE, headers={"content-security-policy": CONTENT_POLICY})


def _add_errors(app: FastAPI) -> None:
    """Every error in OpenAI's form. None has a text of the model, of upstream or of an exception."""

    async def told(_: Request, error: Exception) -> Response:
        known = error if isinstance(error, ReplyError) else ReplyError("the server failed; nothing was given out")
        text = json.dumps(known.content)  # in ASCII: a client's field may be named by half a character
        return Response(text, known.status, headers=known.headers, media_type="application/json")

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return await told(request, RefusedError(f"{where or 'body'}: {first['msg']}", param=where or None))

    async def unrouted(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        known = UnknownError("there is no such endpoint") if error.status_code == 404 else RefusedError("bad request")
        known.status = error.status_code
        return await told(request, known)

    handlers: dict[Any, Callable[[Request, Exception], Any]] = {
        ReplyError: told, RequestValidationError: invalid, HTTPException: unrouted, Exception: told,
    }  # fmt: skip
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def _asks(asked: ChatAsked | TextAsked, most: int) -> list[Ask]:
    """Each input n times; of too many only so many that it shows."""
    return [asked.ask(row) for row in asked.rows() for _ in range(min(asked.n, most + 1))]


async def _behind(first: Any, later: Followed) -> Followed:
    yield first
    async for one in later:
        yield one
