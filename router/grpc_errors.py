"""The error tree as gRPC statuses: the code from the one table, and rich details with retry hints."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import wraps
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from contracts.errors import SpecfleetError, status_of

__all__ = ["abort", "answers", "streams"]

T = TypeVar("T")
DOMAIN = "specfleet"
_MOST_BYTES = 1500  # of a message. It goes twice into headers, once as %XX, and a client takes 8 KiB of them


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: SpecfleetError) -> NoReturn:
    """Ends the call with this error; of a message that is too long for a client the beginning."""
    details = [_packed(error_details_pb2.ErrorInfo(reason=type(error).__name__, domain=DOMAIN, metadata=error.details))]
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(1e3 * error.retry_after_s))
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    code = getattr(grpc.StatusCode, status_of(error).grpc)
    message = error.message.encode()[:_MOST_BYTES].decode(errors="ignore")
    status = status_pb2.Status(code=code.value[0], message=message, details=details)
    rich = rpc_status.to_status(status)
    await context.abort(code, message, rich.trailing_metadata)
    raise AssertionError("abort does not return")


def answers(
    method: Callable[[Any, Any, Any], Awaitable[T]],
) -> Callable[[Any, Any, Any], Awaitable[T]]:
    """A unary method whose errors of ours become statuses."""

    @wraps(method)
    async def wrapped(self: Any, request: Any, context: Any) -> T:
        try:
            return await method(self, request, context)
        except SpecfleetError as error:
            await abort(context, error)

    return wrapped


def streams(
    method: Callable[[Any, Any, Any], AsyncIterator[T]],
) -> Callable[[Any, Any, Any], AsyncIterator[T]]:
    """The same for a method that answers with a stream."""

    @wraps(method)
    async def wrapped(self: Any, request: Any, context: Any) -> AsyncIterator[T]:
        try:
            async for answer in method(self, request, context):
                yield answer
        except SpecfleetError as error:
            await abort(context, error)

    return wrapped


def _packed(message: Any) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
