"""The client for code that awaits."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Self, Unpack

from specfleet import from_wire
from specfleet.delivery import Delivery, completion
from specfleet.errors import Cancelled, Internal, InvalidRequest, SpecfleetClientError, Unavailable
from specfleet.events import Completion, Model, Started, TokenEvent
from specfleet.open_requests import AsyncOpenRequests
from specfleet.options import GenerateOptions, Prompt, checked_limit_s, count_request, generate_request
from specfleet.patience import Patience
from specfleet.transport import AsyncTransport
from specfleet.v1 import inference_pb2 as pb

__all__ = ["AsyncClient", "AsyncGeneration"]


class AsyncClient:
    """Talks to one fleet.

        async with AsyncClient("127.0.0.1:50051") as client:
            async for event in client.generate("The sea is", max_tokens=64):
                print(event.text, end="", flush=True)

    `tls` is a folder with tls.crt, tls.key and ca.crt, read again when they are renewed; None: nothing is encrypted.
    `timeout_s` is the deadline of every call that has none of its own. A stream that is lost is resumed by itself for
    as long as `resume_for_s`. `transport` replaces gRPC; then `address`, `api_key` and `tls` say nothing. It belongs to
    the event loop of its first call: a program that runs several loops has a client for each.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:50051",
        *,
        api_key: str | None = None,
        tls: str | os.PathLike[str] | None = None,
        transport: AsyncTransport | None = None,
        timeout_s: float | None = None,
        resume_for_s: float = 60.0,
    ) -> None:
        if transport is None:
            from specfleet.grpc_aio_transport import AsyncGrpcTransport

            transport = AsyncGrpcTransport(address, api_key=api_key, tls=tls)
        self._transport = transport
        self._open = AsyncOpenRequests(transport)
        self._closing: asyncio.Task[None] | None = None
        self._timeout_s = checked_limit_s("timeout_s", timeout_s)
        self._resume_for_s = resume_for_s

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancels what is under way at the fleet, and closes the connection."""
        # In a task of its own: whoever closes may be cancelled while it waits for that, and no less shall be done.
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await self._open.close()
        await self._transport.close()

    def generate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> AsyncGeneration:
        """Generates text: an asynchronous iterator of `TokenEvent`s. Leaving it early cancels the request.

        Wrong options are refused here; all other errors come while iterating.
        """
        request = generate_request(prompt, options)
        deadline_s = options.get("deadline_s")
        patience = Patience(
            time.monotonic,
            deadline_s=self._timeout_s if deadline_s is None else checked_limit_s("deadline_s", deadline_s),
            resume_for_s=self._resume_for_s,
        )
        return AsyncGeneration(self._transport, request, patience, self._open)

    async def complete(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Completion:
        """The whole answer at once, for one choice."""
        if options.get("num_choices", 1) not in (0, 1, None):
            raise InvalidRequest("complete gives one answer; for several choices iterate over generate")
        generation = self.generate(prompt, **options)
        events = [event async for event in generation]
        return completion(generation.request_id, generation.started, events)

    async def cancel(self, request_id: str) -> bool:
        """Ends a request early; whether it was still running. Its stream ends with the reason `cancelled`."""
        answer = await self._transport.cancel(pb.CancelRequest(request_id=request_id), self._timeout_s)
        return answer.was_running

    async def count_tokens(self, prompt: str | Sequence[Mapping[str, str]], *, model: str | None = None) -> int:
        """How many tokens a text or a chat has."""
        return (await self._transport.count_tokens(count_request(prompt, model), self._timeout_s)).num_tokens

    async def list_models(self) -> tuple[Model, ...]:
        """What the fleet serves."""
        answer = await self._transport.list_models(pb.ListModelsRequest(), self._timeout_s)
        return tuple(from_wire.model(model) for model in answer.models)


class AsyncGeneration:
    """One request under way: iterate over it for its events. `started` is None until the fleet has accepted it."""

    def __init__(
        self,
        transport: AsyncTransport,
        request: pb.GenerateRequest,
        patience: Patience,
        open_requests: AsyncOpenRequests,
    ) -> None:
        self.request_id = request.request_id
        self._delivery, self._open = Delivery(request), open_requests
        self._events = _events(transport, request, self._delivery, patience, open_requests)

    @property
    def started(self) -> Started | None:
        return self._delivery.started

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TokenEvent:
        return await anext(self._events)

    async def aclose(self) -> None:
        """Cancels the request, unless it has ended. A task that waits for its events sees it end as `cancelled`."""
        try:
            await self._events.aclose()
        except RuntimeError:  # what Python says where another task is in it
            await self._open.leave(self._delivery)


async def _events(
    transport: AsyncTransport,
    request: pb.GenerateRequest,
    delivery: Delivery,
    patience: Patience,
    open_requests: AsyncOpenRequests,
) -> AsyncGenerator[TokenEvent, None]:
    """The events of all streams that it takes, without what was seen twice. The twin of `client._events`."""
    open_requests.begin(delivery)
    try:
        while open_requests.has(delivery):
            try:
                async with aclosing(_stream(transport, request, delivery, patience.begin())) as responses:
                    async for response in responses:
                        if open_requests.is_closed:
                            raise Cancelled("the client was closed while the call was under way")
                        for event in delivery.take(response, time.perf_counter()):
                            yield event
                        if delivery.is_complete:
                            delivery.check()
                            return
                raise Internal("the stream ended before the answer was whole")
            except Unavailable as error:
                await asyncio.sleep(patience.wait_s(error, has_begun=delivery.has_begun, progress=delivery.progress))
        raise Cancelled("the request was left while its stream was lost")
    except BaseException as error:
        # Refused: nothing to cancel. Otherwise the fleet may be at work for someone who has left.
        if delivery.has_begun or not isinstance(error, SpecfleetClientError):
            await open_requests.leave(delivery)
        raise
    finally:
        open_requests.end(delivery)


def _stream(
    transport: AsyncTransport, request: pb.GenerateRequest, delivery: Delivery, timeout_s: float | None
) -> AsyncGenerator[pb.GenerateResponse, None]:
    """Until the fleet has answered, the same request again: its id makes sure that it is generated once."""
    if delivery.has_begun:
        return transport.resume(delivery.resume_request(), timeout_s)
    return transport.generate(request, timeout_s)
