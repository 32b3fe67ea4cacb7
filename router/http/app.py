"""The HTTP face: OpenAI's completions and chat, models, health, metrics."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from contracts.errors import InvalidArgument, SpecfleetError, Unavailable
from router.front import Asked, Front
from router.http.answering import ChatForm, CompletionForm, Form, stream, whole
from router.http.asking import chat_asked, completion_asked
from router.http.errors import error_response
from router.http.schemas import ChatRequest, CompletionRequest, GenerationSettings
from router.metrics import metrics_text
from specfleet import __version__

__all__ = ["http_app", "run_http"]

_MAX_BODY = 16 * 2**20


def http_app(front: Front) -> FastAPI:
    """All routes, before one front door."""
    app = FastAPI(title="specfleet", version=__version__, docs_url=None, redoc_url=None)

    @app.exception_handler(SpecfleetError)
    async def refused(_: HttpRequest, error: SpecfleetError) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: HttpRequest, error: RequestValidationError) -> JSONResponse:
        found = error.errors()[0]
        where = ".".join(str(part) for part in found["loc"][1:]) or "the body"
        return error_response(InvalidArgument(f"{where}: {found['msg']}", details={"field": where}))

    @app.middleware("http")
    async def bounded(request: HttpRequest, call_next):  # type: ignore[no-untyped-def]
        length = request.headers.get("content-length", "0")
        if length.isdigit() and int(length) > _MAX_BODY:
            return error_response(InvalidArgument(f"the body has {length} bytes; at most {_MAX_BODY} are read"))
        return await call_next(request)

    @app.post("/v1/completions")
    async def completions(request: CompletionRequest) -> Response:
        return await _answer(front, request, completion_asked(request), CompletionForm, request.logprobs)

    @app.post("/v1/chat/completions")
    async def chat(request: ChatRequest) -> Response:
        num_logprobs = (request.top_logprobs or 0) if request.logprobs else None
        return await _answer(front, request, chat_asked(request), ChatForm, num_logprobs)

    @app.get("/v1/models")
    async def models() -> JSONResponse:
        offer = front.offer
        data = (
            []
            if offer is None
            else [{"id": offer.model.name, "object": "model", "created": 0, "owned_by": "specfleet"}]
        )
        return JSONResponse({"object": "list", "data": data})

    @app.get("/healthz")
    async def healthz() -> PlainTextResponse:
        return PlainTextResponse("ok\n")

    @app.get("/readyz")
    async def readyz() -> PlainTextResponse:
        return PlainTextResponse("ready\n") if front.is_ready else PlainTextResponse("not ready\n", status_code=503)

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(metrics_text(front), media_type="text/plain; version=0.0.4")

    return app


async def _answer(
    front: Front, request: GenerationSettings, asked: Asked, form: type[Form], num_logprobs: int | None
) -> Response:
    running = await front.generate(asked)
    assert front.text is not None, "a request that runs has been encoded"
    spelling = form(front.text.tokenizer, num_logprobs=num_logprobs)
    if request.stream:
        include_usage = request.stream_options is not None and request.stream_options.include_usage
        events = stream(front, running, spelling, include_usage=include_usage)
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
    return JSONResponse(await whole(front, running, spelling))


class _Server(uvicorn.Server):
    """One whose signals are handled by the process that it is a part of."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield


@asynccontextmanager
async def run_http(front: Front, host: str, port: int) -> AsyncIterator[int]:
    """Serves until the block is left; the port."""
    config = uvicorn.Config(
        http_app(front), host=host, port=port, log_level="warning", lifespan="off", timeout_graceful_shutdown=2
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve())
    try:
        while not server.started:
            if serving.done():
                raise Unavailable(f"cannot listen on {host}:{port}; is another router there?")
            await asyncio.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await asyncio.wait([serving], timeout=5)
