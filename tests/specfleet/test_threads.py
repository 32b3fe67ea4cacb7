"""One blocking client serves many threads, and another transport serves any client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor

from specfleet import AsyncClient, Client
from specfleet.v1 import inference_pb2 as pb
from tests.specfleet.scripted_fleet import ANSWER, ScriptedFleet


def test_threads_share_a_client(fleet: ScriptedFleet) -> None:
    with Client(fleet.address) as client, ThreadPoolExecutor(8) as threads:
        texts = list(threads.map(lambda number: client.complete(f"{number}").text, range(64)))
    assert texts == ["".join(word.text for word in ANSWER)] * 64
    assert len({call.request_id for call in fleet.calls}) == 64


class Echo:
    """A transport without a network: one token a letter of the prompt."""

    def generate(
        self, request: pb.GenerateRequest, timeout_s: float | None
    ) -> Generator[pb.GenerateResponse, None, None]:
        for index, letter in enumerate(request.prompt):
            yield pb.GenerateResponse(tokens=pb.Tokens(first_index=index, tokens=[pb.Token(text=letter)]))
        yield pb.GenerateResponse(finished=pb.Finished(reason=pb.FINISH_REASON_STOP))

    def resume(self, request: pb.ResumeRequest, timeout_s: float | None) -> Generator[pb.GenerateResponse, None, None]:
        yield from ()

    def cancel(self, request: pb.CancelRequest, timeout_s: float | None) -> pb.CancelResponse:
        return pb.CancelResponse()

    def count_tokens(self, request: pb.CountTokensRequest, timeout_s: float | None) -> pb.CountTokensResponse:
        return pb.CountTokensResponse(num_tokens=len(request.prompt))

    def list_models(self, request: pb.ListModelsRequest, timeout_s: float | None) -> pb.ListModelsResponse:
        return pb.ListModelsResponse()

    def close(self) -> None:
        pass


class AsyncEcho:
    """The same for the other client."""

    def __init__(self) -> None:
        self._echo = Echo()

    async def generate(
        self, request: pb.GenerateRequest, timeout_s: float | None
    ) -> AsyncGenerator[pb.GenerateResponse, None]:
        for response in self._echo.generate(request, timeout_s):
            yield response

    async def resume(
        self, request: pb.ResumeRequest, timeout_s: float | None
    ) -> AsyncGenerator[pb.GenerateResponse, None]:
        for response in self._echo.resume(request, timeout_s):
            yield response

    async def cancel(self, request: pb.CancelRequest, timeout_s: float | None) -> pb.CancelResponse:
        return self._echo.cancel(request, timeout_s)

    async def count_tokens(self, request: pb.CountTokensRequest, timeout_s: float | None) -> pb.CountTokensResponse:
        return self._echo.count_tokens(request, timeout_s)

    async def list_models(self, request: pb.ListModelsRequest, timeout_s: float | None) -> pb.ListModelsResponse:
        return self._echo.list_models(request, timeout_s)

    async def close(self) -> None:
        pass


def test_a_transport_can_be_brought_along() -> None:
    async def awaited() -> str:
        async with AsyncClient(transport=AsyncEcho()) as client:
            return (await client.complete("abc")).text

    with Client(transport=Echo()) as client:
        assert client.complete("abc").text == asyncio.run(awaited()) == "abc"
        assert client.count_tokens("abcd") == 4
