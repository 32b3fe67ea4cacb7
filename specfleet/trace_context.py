"""The client's part of a trace: a span for each stream, whose header goes with the call, so that what the fleet does
for it belongs to the caller's trace.

Only where the program has set up OpenTelemetry (the extra `tracing` brings its API), which then is loaded already:
others do not pay for loading it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

__all__ = ["CallSpan", "call_span"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSpan:
    """One stream. `headers` go with it."""

    headers: tuple[tuple[str, str], ...] = ()
    span: Any = None

    def end(self) -> None:
        if self.span is not None:
            self.span.end()


_NONE = CallSpan()


def call_span(request: object) -> CallSpan:
    """Begins below the span that the caller is in, if it is in one."""
    if "opentelemetry.trace" not in sys.modules:
        return _NONE
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    method = type(request).__name__.removesuffix("Request")
    tracer = trace.get_tracer("specfleet")
    span = tracer.start_span(f"specfleet.v1.Inference/{method}", kind=trace.SpanKind.CLIENT)
    if not span.get_span_context().is_valid:
        return _NONE
    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers, trace.set_span_in_context(span))
    return CallSpan(headers=tuple(headers.items()), span=span)
