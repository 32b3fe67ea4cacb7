"""The HTTP face: OpenAI's completions and chat, models, health, metrics."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException as HttpError

from contracts.errors import InvalidArgument, NotFound, SpecfleetError, Unavailable, shown
from router.asked import TRACE
from router.front import Asked, Front, Request
from router.http.answering import ChatForm, CompletionForm, Form, end, stream, whole
from router.http.asking import chat_asked, completions_asked
from router.http.body import WholeBody
from router.http.connection import BoundedConnection
from router.http.errors import error_response
from router.http.limits import HttpLimits
from router.http.malformed import malformed_body
from router.http.schemas import ChatRequest, CompletionRequest, GenerationSettings
from router.metrics.exposition import CONTENT_TYPE, metrics_text
from router.orders import VerifierOffer
from router.security.gate import Gate
from router.security.http_gate import HttpGate
from router.security.tls import http_context, keep_http_renewed
from specfleet import __version__

__all__ = ["http_app", "run_http"]

_EVERYONE = HttpLimits()


def http_app(front: Front, limits: HttpLimits = _EVERYONE) -> FastAPI:
    """All routes, before one front door."""
    app = FastAPI(title="specfleet", version=__version__, docs_url=None, redoc_url=None)
    app.add_middleware(WholeBody, limits=limits)

    @app.exception_handler(SpecfleetError)
    async def refused(_: HttpRequest, error: SpecfleetError) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: HttpRequest, error: RequestValidationError) -> JSONResponse:
        return error_response(malformed_body(request, error))

    @app.exception_handler(HttpError)
    async def misdirected(request: HttpRequest, error: HttpError) -> JSONResponse:
        return error_response(_told(request, error), error.status_code)

    @app.post("/v1/completions")
    async def completions(request: CompletionRequest, http: HttpRequest) -> Response:
        return await _answer(front, http, request, completions_asked(request), CompletionForm, request.logprobs)

    @app.post("/v1/chat/completions")
    async def chat(request: ChatRequest, http: HttpRequest) -> Response:
        num_logprobs = (request.top_logprobs or 0) if request.logprobs else None
        return await _answer(front, http, request, [chat_asked(request)], ChatForm, num_logprobs)

    @app.get("/v1/models")
    async def models() -> JSONResponse:
        data = [] if front.offer is None else [_model(front.offer)]
        return JSONResponse({"object": "list", "data": data})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> JSONResponse:
        offer = front.offer
        if offer is None or offer.model.name != name:
            known = "nothing yet" if offer is None else offer.model.name
            raise NotFound(f"model is {shown(name)}; this fleet serves {known}")
        return JSONResponse(_model(offer))

    @app.get("/healthz")
    async def healthz() -> PlainTextResponse:
        return PlainTextResponse("ok\n")

    @app.get("/readyz")
    async def readyz() -> PlainTextResponse:
        return PlainTextResponse("ready\n") if front.is_ready else PlainTextResponse("not ready\n", status_code=503)

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(await metrics_text(front), headers={"Content-Type": CONTENT_TYPE})

    return app


def _model(offer: VerifierOffer) -> dict[str, Any]:
    return {"id": offer.model.name, "object": "model", "created": 0, "owned_by": "specfleet"}


def _told(request: HttpRequest, error: HttpError) -> SpecfleetError:
    """What the framework finds wrong, in our words."""
    match error.status_code:
        case 404:
            return NotFound(
                f"there is no {shown(request.url.path)}; see /v1/models, /v1/completions, /v1/chat/completions"
            )
        case 405:
            return InvalidArgument(f"{request.url.path} does not take {request.method}")
        case _:
            return InvalidArgument(f"the body is no JSON that can be read: {error.__cause__ or error.detail}")


async def _answer(
    front: Front,
    http: HttpRequest,
    request: GenerationSettings,
    asked: Sequence[Asked],
    form: type[Form],
    num_logprobs: int | None,
) -> Response:
    running = await _all_accepted(front, [replace(each, trace=http.headers.get(TRACE, "")) for each in asked])
    assert front.text is not None, "a request that runs has been encoded"
    spelling = form(front.text.tokenizer, num_logprobs=num_logprobs)
    if request.stream:
        include_usage = request.stream_options is not None and request.stream_options.include_usage
        events = stream(front, running, spelling, include_usage=include_usage)
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
    content = await _unless_gone(http, whole(front, running, spelling))
    return Response(status_code=499) if content is None else JSONResponse(content)


async def _all_accepted(front: Front, asked: Sequence[Asked]) -> list[Request]:
    """Or none of them: a refusal is one of the whole."""
    running: list[Request] = []
    try:
        for each in asked:
            running.append(await front.generate(each))
    except BaseException:
        end(front, running)
        raise
    return running


async def _unless_gone(http: HttpRequest, answer: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any] | None:
    """The answer, or None as soon as there is nobody to read it."""
    answering = asyncio.create_task(answer)
    leaving = asyncio.ensure_future(http.receive())  # behind `WholeBody` only one thing can still come
    try:
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        return answering.result() if answering.done() else None
    finally:
        answering.cancel()
        leaving.cancel()
        await asyncio.gather(answering, leaving, return_exceptions=True)


class _Server(uvicorn.Server):
    """One whose signals are handled by the process that it is a part of."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield


@asynccontextmanager
async def run_http(
    front: Front,
    host: str,
    port: int,
    *,
    gate: Gate | None = None,
    tls: Path | None = None,
    limits: HttpLimits = _EVERYONE,
) -> AsyncIterator[int]:
    """Serves until the block is left; the port. `tls` is the folder with the router's certificate."""
    context = http_context(tls) if tls is not None else None
    config = uvicorn.Config(
        HttpGate(http_app(front, limits), gate or Gate()),
        host=host,
        port=port,
        http=partial(BoundedConnection, limits=limits),  # type: ignore[arg-type]  # it makes one, as the class would
        ws="none",
        log_level="warning",
        lifespan="off",
        timeout_graceful_shutdown=2,
        ssl_context_factory=(lambda *_: context) if context is not None else None,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve())
    renewing = asyncio.create_task(keep_http_renewed(context, tls)) if tls is not None and context is not None else None
    try:
        while not server.started:
            if serving.done():
                raise Unavailable(f"cannot listen on {host}:{port}; is another router there?")
            await asyncio.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        if renewing is not None:
            renewing.cancel()
        server.should_exit = True
        await asyncio.wait([serving], timeout=5)
