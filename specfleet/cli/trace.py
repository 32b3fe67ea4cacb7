"""Spans of work as a file that Perfetto and Chrome's tracing page open: one process a track."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from specfleet.v1 import admin_pb2 as pb

__all__ = ["trace"]


def trace(spans: Sequence[pb.TimelineResponse.Span]) -> dict[str, Any]:
    """The trace-event format. Time begins with the first span."""
    zero_s = min((span.began_s for span in spans), default=0.0)
    by_process = defaultdict(list)
    for span in spans:
        by_process[span.process].append(span)
    events: list[dict[str, Any]] = []
    for process, name in enumerate(sorted(by_process, key=_rank), start=1):
        events.append(_metadata(process, "process_name", name=name))
        events.append(_metadata(process, "process_sort_index", sort_index=process))
        for lane, lane_spans in enumerate(_lanes(by_process[name]), start=1):
            events.append(_metadata(process, "thread_name", lane, name="work" if lane == 1 else f"work {lane}"))
            events += [_event(span, process, lane, zero_s) for span in lane_spans]
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _rank(process: str) -> tuple[int, str]:
    """Router, then verifier, then drafters by name."""
    return {"router": 0, "verifier": 1}.get(process, 2), process


def _lanes(spans: Iterable[pb.TimelineResponse.Span]) -> list[list[pb.TimelineResponse.Span]]:
    """As few lanes as can be in which no spans overlap: viewers drop or misplace spans that do."""
    lanes: list[list[pb.TimelineResponse.Span]] = []
    for span in sorted(spans, key=lambda span: (span.began_s, span.ended_s)):
        free = next((lane for lane in lanes if lane[-1].ended_s <= span.began_s), None)
        if free is None:
            lanes.append([span])
        else:
            free.append(span)
    return lanes


def _event(span: pb.TimelineResponse.Span, process: int, lane: int, zero_s: float) -> dict[str, Any]:
    return {
        "name": span.name,
        "ph": "X",
        "pid": process,
        "tid": lane,
        "ts": 1e6 * (span.began_s - zero_s),
        "dur": 1e6 * max(span.ended_s - span.began_s, 0.0),
        "args": {"round": span.round, "sequences": list(span.sequences), "num_rows": span.num_rows},
    }


def _metadata(process: int, what: str, lane: int = 0, **args: object) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": process, "tid": lane, "args": args}
