"""A collector of traces: the real service of OTLP by gRPC, which keeps what it is sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

__all__ = ["CollectedSpan", "Collector", "collector"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectedSpan:
    """One span, and the process that it is of."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    began_s: float
    ended_s: float
    about: Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class Collector:
    address: str
    spans: list[CollectedSpan] = field(default_factory=list)

    def of(self, trace: str, name: str) -> list[CollectedSpan]:
        return [span for span in list(self.spans) if (span.trace, span.name) == (trace, name)]


class _Service(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, spans: list[CollectedSpan]) -> None:
        self._spans = spans

    def Export(self, request: Any, context: Any) -> Any:
        for of in request.resource_spans:
            service = _plain(of.resource.attributes)["service.name"]
            for scope in of.scope_spans:
                self._spans += [
                    CollectedSpan(
                        service=str(service),
                        name=span.name,
                        trace=span.trace_id.hex(),
                        id=span.span_id.hex(),
                        parent=span.parent_span_id.hex(),
                        began_s=span.start_time_unix_nano / 1e9,
                        ended_s=span.end_time_unix_nano / 1e9,
                        about=_plain(span.attributes),
                    )
                    for span in scope.spans
                ]
        return trace_service_pb2.ExportTraceServiceResponse()


def _plain(attributes: Any) -> dict[str, str | int]:
    values = {each.key: each.value for each in attributes}
    return {
        key: value.int_value if value.HasField("int_value") else value.string_value for key, value in values.items()
    }


@contextmanager
def collector() -> Iterator[Collector]:
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        port = server.add_insecure_port("127.0.0.1:0")
        made = Collector(f"http://127.0.0.1:{port}")
        add_service: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server  # its makers give no types
        add_service(_Service(made.spans), server)
        server.start()
        try:
            yield made
        finally:
            server.stop(grace=None).wait()
