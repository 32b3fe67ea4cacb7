"""Shares of hidden drafting and of waiting, and a trace whose spans never overlap in a lane."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specfleet.cli.overlap import overlap_of
from specfleet.cli.trace import trace
from specfleet.v1 import admin_pb2

Span = admin_pb2.TimelineResponse.Span

SPANS = st.lists(
    st.builds(
        lambda process, began, took: Span(process=process, name="work", began_s=began, ended_s=began + took),
        st.sampled_from(["router", "verifier", "general", "code"]),
        st.integers(0, 60),
        st.integers(0, 12),
    ),
    max_size=30,
)


@given(SPANS)
def test_shares_are_those_of_counted_seconds(spans: list[Span]) -> None:
    """Whole seconds can be counted one by one."""

    def busy(process: str) -> set[int]:
        every = [range(int(span.began_s), int(span.ended_s)) for span in spans if span.process == process]
        return {second for seconds in every for second in seconds}

    verifying = busy("verifier")
    window = set(range(min(verifying), max(verifying) + 1)) if verifying else set()
    drafting = [busy(name) & window for name in ("general", "code")]
    overlap = overlap_of(spans)
    assert overlap.seen_s == len(window)
    assert overlap.verifying_s == len(verifying)
    assert overlap.drafting_s == sum(map(len, drafting))
    assert overlap.hidden_s == sum(len(seconds & verifying) for seconds in drafting)
    if not any(drafting):
        assert overlap.hidden_share is None


@given(SPANS)
def test_a_trace_holds_every_span_and_no_lane_overlaps(spans: list[Span]) -> None:
    events = trace(spans)["traceEvents"]
    work = [event for event in events if event["ph"] == "X"]
    assert len(work) == len(spans)
    lanes = defaultdict(list)
    for event in work:
        lanes[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    for lane in lanes.values():
        assert all(first[1] <= second[0] for first, second in pairwise(lane))
    named = {event["pid"] for event in events if event["name"] == "process_name"}
    assert named == {event["pid"] for event in work}
    assert min((event["ts"] for event in work), default=0.0) == pytest.approx(0.0)
