"""The operators' calls. Answers are the wire's own messages: `specfleet.v1.admin_pb2` describes their fields."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import closing
from types import TracebackType
from typing import Self

from specfleet.errors import DeadlineExceeded
from specfleet.options import checked_limit_s
from specfleet.v1 import admin_pb2 as pb

__all__ = ["Admin"]


class Admin:
    """Looks at one fleet, and takes workers out of service."""

    def __init__(
        self,
        address: str = "127.0.0.1:50051",
        *,
        api_key: str | None = None,
        tls: str | os.PathLike[str] | None = None,
        timeout_s: float | None = None,
    ) -> None:
        from specfleet.grpc_transport import Connection
        from specfleet.v1.admin_pb2_grpc import AdminStub

        self._connection = Connection(address, api_key=api_key, tls=tls)
        self._stub = AdminStub(self._connection.channel)
        self._timeout_s = checked_limit_s("timeout_s", timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def status(self) -> pb.StatusResponse:
        """The fleet at a glance."""
        answer: pb.StatusResponse = self._connection.answer(self._stub.Status, pb.StatusRequest(), self._timeout_s)
        return answer

    def metrics(self) -> str:
        """All that the router counts, in the text form that Prometheus reads."""
        answer: pb.MetricsResponse = self._connection.answer(self._stub.Metrics, pb.MetricsRequest(), self._timeout_s)
        return answer.text

    def drain(self, worker: str = "") -> tuple[str, ...]:
        """Takes a worker, or without a name the whole fleet, out of service; who that concerns."""
        answer: pb.DrainResponse = self._connection.answer(
            self._stub.Drain, pb.DrainRequest(worker=worker), self._timeout_s
        )
        return tuple(answer.workers)

    def timeline(self, for_s: float) -> Generator[pb.TimelineResponse.Span, None, None]:
        """Spans of work of all processes as they end, for so many seconds."""
        with closing(self._connection.stream(self._stub.Timeline, pb.TimelineRequest(), for_s)) as responses:
            try:
                for response in responses:
                    yield from response.spans
            except DeadlineExceeded:
                return  # the end that was asked for
