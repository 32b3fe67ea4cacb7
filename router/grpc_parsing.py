"""Messages that are none: the caller hears so, and in our own words.

gRPC unpacks a message before any method is reached, and what goes wrong there looks to callers like a fault of ours.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from contracts.errors import InvalidArgument
from router.grpc_errors import abort
from specfleet.v1 import fleet_pb2

__all__ = ["GrpcParsing"]

_OURS = "/specfleet."
_MAX_DRAFTS = 2**20  # bytes


class _Malformed:
    """Stands for a message that could not be unpacked, until a method is there to refuse it."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def error(self) -> InvalidArgument:
        return InvalidArgument(f"the message cannot be unpacked: {self._reason}")


class GrpcParsing(grpc.aio.ServerInterceptor):
    """Makes broken messages of our services InvalidArgument. The house has these three kinds of method."""

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        handler = await continuation(details)
        if handler is None or not details.method.startswith(_OURS):
            return handler
        read, write = _lenient(handler.request_deserializer), handler.response_serializer
        if not handler.response_streaming:
            return grpc.unary_unary_rpc_method_handler(_answering(handler.unary_unary), read, write)
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(_conversing(handler.stream_stream), _WorkerReader(read), write)
        return grpc.unary_stream_rpc_method_handler(_streaming(handler.unary_stream), read, write)


class _WorkerReader:
    """Reads one worker's stream. What a drafter says after its hello is small; what is not is not even unpacked, for
    that alone would hold the others up.
    """

    def __init__(self, read: Callable[[bytes], Any]) -> None:
        self._read, self._is_drafter = read, False

    def __call__(self, content: bytes) -> Any:
        if self._is_drafter and len(content) > _MAX_DRAFTS:
            return _Malformed(f"it has {len(content)} bytes; a drafter's may have {_MAX_DRAFTS}")
        message = self._read(content)
        self._is_drafter |= isinstance(message, fleet_pb2.FromWorker) and message.HasField("drafter_hello")
        return message


def _lenient(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def lenient(content: bytes) -> Any:
        try:
            return read(content)
        except DecodeError as error:
            return _Malformed(str(error))

    return lenient


async def _check(message: Any, context: Any) -> None:
    if isinstance(message, _Malformed):
        await abort(context, message.error())


def _answering(method: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Any]:
    async def checked(request: Any, context: Any) -> Any:
        await _check(request, context)
        return await method(request, context)

    return checked


def _streaming(method: Callable[[Any, Any], AsyncIterator[Any]]) -> Callable[[Any, Any], Any]:
    async def checked(request: Any, context: Any) -> AsyncIterator[Any]:
        await _check(request, context)
        async for answer in method(request, context):
            yield answer

    return checked


def _conversing(method: Callable[[Any, Any], AsyncIterator[Any]]) -> Callable[[Any, Any], Any]:
    async def checked(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for answer in method(_each_checked(requests), context):
            yield answer

    return checked


async def _each_checked(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Raises where the method reads: it may have something to put in order before it answers."""
    async for request in requests:
        if isinstance(request, _Malformed):
            raise request.error()
        yield request
