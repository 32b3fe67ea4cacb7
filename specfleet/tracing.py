"""Traces of a fleet's processes by OpenTelemetry: below a client's span one for each sequence, by the router; below
that its rounds, by the verifier, and its drafts, by the drafters.

Off unless OTEL_EXPORTER_OTLP_ENDPOINT (or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT) names a collector that takes OTLP by
gRPC. The other variables of OpenTelemetry's SDK hold too, such as OTEL_TRACES_SAMPLER. No span has text, tokens or keys
in it. Needs OpenTelemetry's SDK and exporter, which come with the service.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from specfleet.errors import InvalidRequest

if TYPE_CHECKING:  # loaded only where traces are asked for
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

__all__ = ["Attributes", "Span", "Tracing", "traced"]

Attributes = Mapping[str, str | int | float]

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
_NS = 1_000_000_000


class Span:
    """One that has begun. `header` is its place in the trace, for those who go on below it; empty: nobody shall."""

    def __init__(self, span: trace.Span) -> None:
        from opentelemetry.trace import set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._span = span
        carrier: dict[str, str] = {}
        if span.get_span_context().trace_flags.sampled:
            TraceContextTextMapPropagator().inject(carrier, set_span_in_context(span))
        self.header = carrier.get("traceparent", "")

    def event(self, name: str) -> None:
        """Something of note happens now."""
        self._span.add_event(name)

    def end(self, attributes: Attributes) -> None:
        self._span.set_attributes(dict(attributes))
        self._span.end()


class Tracing:
    """Makes the spans of one process. A `parent` is the header of a span, or empty for a trace of its own."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer, self._propagator = provider.get_tracer("specfleet"), TraceContextTextMapPropagator()

    def begin(self, name: str, *, parent: str, attributes: Attributes) -> Span:
        """One that ends later."""
        within = self._propagator.extract({"traceparent": parent})
        return Span(self._tracer.start_span(name, context=within, attributes=dict(attributes)))

    def record(self, name: str, *, parent: str, began_s: float, ended_s: float, attributes: Attributes) -> None:
        """One that is over; times are seconds since 1970."""
        within = self._propagator.extract({"traceparent": parent})
        span = self._tracer.start_span(name, context=within, attributes=dict(attributes), start_time=int(began_s * _NS))
        span.end(end_time=int(ended_s * _NS))


@contextmanager
def traced(process: str, name: str) -> Iterator[Tracing | None]:
    """The tracing of a process until the block is left, whose last spans then leave; None where nobody asked for it."""
    is_off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if is_off or not any(os.environ.get(key) for key in _ENDPOINTS):
        yield None
        return
    provider = _provider(process, name)
    try:
        yield Tracing(provider)
    finally:
        provider.shutdown()


def _provider(process: str, name: str) -> TracerProvider:
    for key in _PROTOCOLS:
        if os.environ.get(key, "grpc") != "grpc":
            raise InvalidRequest(f"{key} is {os.environ[key]!r}; it must be grpc, which is how traces are sent")
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise InvalidRequest(
            f"{' or '.join(_ENDPOINTS)} is set and {error.name} is not installed; `pip install specfleet[service]` "
            "brings it, or unset the variable"
        ) from error
    attributes = {"service.instance.id": name}
    if "OTEL_SERVICE_NAME" not in os.environ:
        attributes["service.name"] = f"specfleet-{process}"
    # Of its own and not the process's: Ray has one for its metrics.
    provider = TracerProvider(resource=Resource.create(attributes))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
