"""Messages over gRPC, for code that awaits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import cached_property
from typing import Any, TypeVar

import grpc
import grpc.aio

from specfleet.channel import Tls, check_address, metadata_for, options_for
from specfleet.errors import Cancelled
from specfleet.grpc_errors import client_error
from specfleet.renewed_channel import RenewedChannel
from specfleet.tls import TlsFolder
from specfleet.trace_context import call_span
from specfleet.v1 import inference_pb2 as pb
from specfleet.v1 import inference_pb2_grpc

__all__ = ["AsyncGrpcTransport"]

T = TypeVar("T")


class AsyncGrpcTransport:
    """The default `AsyncTransport`. Lives in the event loop of its first call."""

    def __init__(self, address: str, *, api_key: str | None = None, tls: Tls = None) -> None:
        self._address = check_address(address)
        self._metadata = metadata_for(api_key)
        self._options = options_for(address)
        self._folder = None if tls is None else TlsFolder(tls)
        if self._folder is not None:
            self._folder.read()  # what is wrong with it is told now

    @cached_property
    def _channel(self) -> Any:
        """One of gRPC's, or what stands before several. Opened at the first call: it belongs to the loop that runs."""
        if self._folder is None:
            return grpc.aio.insecure_channel(self._address, options=self._options)
        return RenewedChannel(
            self._folder, lambda of: grpc.aio.secure_channel(self._address, of.for_channel(), options=self._options)
        )

    @cached_property
    def _stub(self) -> Any:
        """The generated one serves both kinds of channel; the annotations of grpcio's own stubs know only one."""
        return inference_pb2_grpc.InferenceStub(self._channel)

    def generate(
        self, request: pb.GenerateRequest, timeout_s: float | None
    ) -> AsyncGenerator[pb.GenerateResponse, None]:
        return self._stream(self._stub.Generate, request, timeout_s)

    def resume(self, request: pb.ResumeRequest, timeout_s: float | None) -> AsyncGenerator[pb.GenerateResponse, None]:
        return self._stream(self._stub.Resume, request, timeout_s)

    async def cancel(self, request: pb.CancelRequest, timeout_s: float | None) -> pb.CancelResponse:
        answer: pb.CancelResponse = await self._answer(self._stub.Cancel, request, timeout_s)
        return answer

    async def count_tokens(self, request: pb.CountTokensRequest, timeout_s: float | None) -> pb.CountTokensResponse:
        answer: pb.CountTokensResponse = await self._answer(self._stub.CountTokens, request, timeout_s)
        return answer

    async def list_models(self, request: pb.ListModelsRequest, timeout_s: float | None) -> pb.ListModelsResponse:
        answer: pb.ListModelsResponse = await self._answer(self._stub.ListModels, request, timeout_s)
        return answer

    async def close(self) -> None:
        for channel in self._channel.to_close() if isinstance(self._channel, RenewedChannel) else [self._channel]:
            await channel.close()

    async def _answer(self, method: Callable[..., Awaitable[T]], request: object, timeout_s: float | None) -> T:
        try:
            return await method(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise client_error(error, self._address) from None
        except grpc.aio.UsageError:
            raise Cancelled("the client is closed; open another") from None
        except asyncio.CancelledError:
            _raise_if_closed()
            raise

    async def _stream(
        self, method: Callable[..., Any], request: object, timeout_s: float | None
    ) -> AsyncGenerator[Any, None]:
        span = call_span(request)
        try:
            call = method(request, timeout=timeout_s, metadata=(*self._metadata, *span.headers))
        except grpc.aio.UsageError:
            span.end()
            raise Cancelled("the client is closed; open another") from None
        try:
            async for answer in call:
                yield answer
        except grpc.RpcError as error:
            raise client_error(error, self._address) from None
        except asyncio.CancelledError:
            _raise_if_closed()
            raise
        finally:
            call.cancel()
            span.end()


def _raise_if_closed() -> None:
    """Tells a client that was closed from a task that is cancelled.

    For calls of a channel that is closed under them, grpc.aio raises asyncio's own error; to code that waits for an
    answer it would look as if its task had been cancelled, which nobody did.
    """
    task = asyncio.current_task()
    if task is None or not task.cancelling():
        raise Cancelled("the client was closed while the call was under way") from None
