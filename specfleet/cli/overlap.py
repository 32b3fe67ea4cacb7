"""How much of the drafting hides behind verification, and how long the verifier waits: from spans of work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from specfleet.v1 import admin_pb2 as pb

__all__ = ["Overlap", "is_drafting", "is_verifying", "overlap_of"]

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """What was seen between the beginning of the first round and the end of the last. Shares are None without work."""

    seen_s: float
    verifying_s: float
    drafting_s: float
    """Of all drafters together: two that draft at once count twice."""
    hidden_s: float
    """Of these, while the verifier verified."""

    @property
    def hidden_share(self) -> float | None:
        return self.hidden_s / self.drafting_s if self.drafting_s > 0.0 else None

    @property
    def idle_share(self) -> float | None:
        return 1.0 - self.verifying_s / self.seen_s if self.seen_s > 0.0 else None


def is_verifying(span: pb.TimelineResponse.Span) -> bool:
    return span.process == "verifier"


def is_drafting(span: pb.TimelineResponse.Span) -> bool:
    """Whoever is neither router nor verifier is a drafter."""
    return span.process not in ("router", "verifier")


def overlap_of(spans: Sequence[pb.TimelineResponse.Span]) -> Overlap:
    """Cut to the time from the first round to the last: before and after it, rounds may have been missed."""
    verifying = _union((span.began_s, span.ended_s) for span in spans if is_verifying(span))
    if not verifying:
        return Overlap(seen_s=0.0, verifying_s=0.0, drafting_s=0.0, hidden_s=0.0)
    window = (verifying[0][0], verifying[-1][1])
    drafting_s = hidden_s = 0.0
    for drafter in {span.process for span in spans if is_drafting(span)}:
        drafting = _union((span.began_s, span.ended_s) for span in spans if span.process == drafter)
        drafting_s += _common_s(drafting, [window])
        hidden_s += _common_s(drafting, verifying)
    return Overlap(
        seen_s=window[1] - window[0],
        verifying_s=sum(end - begin for begin, end in verifying),
        drafting_s=drafting_s,
        hidden_s=hidden_s,
    )


def _union(intervals: Iterable[Interval]) -> list[Interval]:
    """The same time in intervals that do not touch, in order."""
    union: list[Interval] = []
    for begin, end in sorted(intervals):
        if union and begin <= union[-1][1]:
            union[-1] = (union[-1][0], max(union[-1][1], end))
        elif end > begin:
            union.append((begin, end))
    return union


def _common_s(first: Sequence[Interval], second: Sequence[Interval]) -> float:
    """How long both go on; each is in order and does not overlap itself."""
    common_s, i, j = 0.0, 0, 0
    while i < len(first) and j < len(second):
        common_s += max(min(first[i][1], second[j][1]) - max(first[i][0], second[j][0]), 0.0)
        if first[i][1] <= second[j][1]:
            i += 1
        else:
            j += 1
    return common_s
