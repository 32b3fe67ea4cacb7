"""From gRPC's statuses to the errors of the client, with the hints that travel with them."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from specfleet.errors import (
    AlreadyExists,
    Cancelled,
    ConnectionLost,
    DeadlineExceeded,
    Internal,
    InvalidRequest,
    NotFound,
    Overloaded,
    PermissionDenied,
    SpecfleetClientError,
    Unauthenticated,
    Unavailable,
)

__all__ = ["client_error"]

_CLASSES: dict[grpc.StatusCode, type[SpecfleetClientError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.FAILED_PRECONDITION: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
}

# gRPC has one code for a fleet without room and for a message that is larger than one of the two sides takes.
_TOO_LARGE = "larger than max"
# gRPC has one code for "nobody there" and for "was there and is gone"; only its words tell them apart.
_NEVER_REACHED = ("failed to connect to all addresses", "errors resolving", "DNS resolution failed")
# A connection that breaks inside a message, or behind a proxy, can look like a fault of the server's.
_LOST = ("RST_STREAM", "Stream removed", "Connection reset", "Socket closed", "GOAWAY")


def client_error(error: Any, address: str) -> SpecfleetClientError:
    """The error of a call that gRPC reported; `error` is a `grpc.RpcError` of either kind of channel."""
    code, message = error.code(), error.details() or ""
    hints = _hints(error)
    if hints is None and _was_lost(code, message):
        return ConnectionLost(f"the connection to {address} was lost: {message}")
    if hints is None and code is grpc.StatusCode.UNAVAILABLE:
        return Unavailable(f"no fleet can be reached at {address}: {_shortened(message)}")
    if hints is None and code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in message:
        return InvalidRequest(f"the request or its answer is too large: {message}")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return Internal(f"the server at {address} does not know this call; is it a fleet of this version?")
    kind = _CLASSES.get(code, Internal)
    return kind(message or f"the fleet answered {code.name} without a reason", **(hints or {}))


def _was_lost(code: grpc.StatusCode, message: str) -> bool:
    if code is grpc.StatusCode.UNAVAILABLE:
        return not message.startswith(_NEVER_REACHED)
    return code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN) and any(words in message for words in _LOST)


def _hints(error: Any) -> dict[str, Any] | None:
    """What the fleet sent with the error. None: it sent nothing, so that gRPC itself may have made the status."""
    try:
        status = rpc_status.from_call(error)
    except (ValueError, DecodeError):  # details that belong to no fleet: a proxy's, say
        return None
    if status is None:
        return None
    hints: dict[str, Any] = {}
    for detail in status.details:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            hints["retry_after_s"] = retry.retry_delay.ToTimedelta().total_seconds()
        elif detail.Unpack(info):
            hints |= {"reason": info.reason, "details": dict(info.metadata)}
    return hints


def _shortened(message: str) -> str:
    """The last and telling part of gRPC's long sentence."""
    return message.rpartition("last error: ")[2].rpartition(": ")[2].rstrip("]") or message
