"""What every process did when: spans of rounds and drafting, kept for a while and told to those who watch."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from contracts.types import DrafterId
from router.orders import Drafts, RoundDone
from router.rounds import PlannedRound

__all__ = ["Span", "Timeline"]

_KEPT = 20_000
_MAX_BEHIND = 10_000  # spans that a watcher may be behind before it loses some


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One stretch of work of one process, in seconds since 1970 by that process's clock."""

    process: str
    name: str
    began_s: float
    ended_s: float
    round: int = 0
    sequences: tuple[int, ...] = ()
    num_rows: int = 0


class Timeline:
    """See the module."""

    def __init__(self) -> None:
        self.recent: deque[Span] = deque(maxlen=_KEPT)
        self._watchers: set[asyncio.Queue[Span]] = set()

    def verified(self, done: RoundDone, planned: PlannedRound) -> None:
        """A round is over."""
        if done.report is None:
            return
        self._add(
            Span(
                process="verifier",
                name="verify",
                began_s=done.began_s,
                ended_s=done.began_s + done.report.elapsed_s,
                round=done.round,
                sequences=tuple(int(item.sequence) for item in planned.items),
                num_rows=done.report.num_rows,
            )
        )

    def drafted(self, drafter: DrafterId, drafts: Drafts) -> None:
        """A drafter sent what it found."""
        self._add(
            Span(
                process=str(drafter),
                name="draft",
                began_s=drafts.began_s,
                ended_s=drafts.ended_s,
                sequences=tuple(int(draft.sequence) for draft in drafts.drafts),
                num_rows=sum(len(draft.nodes) for draft in drafts.drafts),
            )
        )

    def ticked(self, began_s: float, ended_s: float) -> None:
        """The router made a round."""
        self._add(Span(process="router", name="plan", began_s=began_s, ended_s=ended_s))

    async def watch(self) -> AsyncIterator[list[Span]]:
        """Spans as they end, as many at a time as there are."""
        queue: asyncio.Queue[Span] = asyncio.Queue(maxsize=_MAX_BEHIND)
        self._watchers.add(queue)
        try:
            while True:
                spans = [await queue.get()]
                while not queue.empty():
                    spans.append(queue.get_nowait())
                yield spans
        finally:
            self._watchers.discard(queue)

    def _add(self, span: Span) -> None:
        self.recent.append(span)
        for queue in self._watchers:
            if not queue.full():
                queue.put_nowait(span)
