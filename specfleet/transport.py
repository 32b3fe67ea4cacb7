"""What the clients ask of the thing that carries their messages. gRPC is one; a test or a simulation brings its own.

Every method raises the errors of `errors.py` and no other. `timeout_s` is what is left of the caller's deadline.
Closing a stream's iterator early ends its call.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Protocol

from specfleet.v1 import inference_pb2 as pb

__all__ = ["AsyncTransport", "Transport"]


class Transport(Protocol):
    """For `Client`."""

    def generate(
        self, request: pb.GenerateRequest, timeout_s: float | None
    ) -> Generator[pb.GenerateResponse, None, None]: ...

    def resume(
        self, request: pb.ResumeRequest, timeout_s: float | None
    ) -> Generator[pb.GenerateResponse, None, None]: ...

    def cancel(self, request: pb.CancelRequest, timeout_s: float | None) -> pb.CancelResponse: ...

    def count_tokens(self, request: pb.CountTokensRequest, timeout_s: float | None) -> pb.CountTokensResponse: ...

    def list_models(self, request: pb.ListModelsRequest, timeout_s: float | None) -> pb.ListModelsResponse: ...

    def close(self) -> None: ...


class AsyncTransport(Protocol):
    """The same for `AsyncClient`."""

    def generate(
        self, request: pb.GenerateRequest, timeout_s: float | None
    ) -> AsyncGenerator[pb.GenerateResponse, None]: ...

    def resume(
        self, request: pb.ResumeRequest, timeout_s: float | None
    ) -> AsyncGenerator[pb.GenerateResponse, None]: ...

    async def cancel(self, request: pb.CancelRequest, timeout_s: float | None) -> pb.CancelResponse: ...

    async def count_tokens(self, request: pb.CountTokensRequest, timeout_s: float | None) -> pb.CountTokensResponse: ...

    async def list_models(self, request: pb.ListModelsRequest, timeout_s: float | None) -> pb.ListModelsResponse: ...

    async def close(self) -> None: ...
