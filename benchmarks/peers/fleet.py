"""Our modes as peers: requests of the client over gRPC, to one fleet whose processes stay warm."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.peers.peer import Ask, RouterWork, Said
from benchmarks.peers.processes import with_children
from benchmarks.peers.workloads import Question
from benchmarks.service_rig import MeasuredFleet
from router.modes import mode_parts
from router.timeline import Span
from specfleet.async_client import AsyncClient
from specfleet.cli.load import Answer, run_load
from specfleet.options import GenerateOptions

__all__ = ["FleetMode"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetMode:
    """A mode by name, which may lack parts: see `router.modes.mode_parts`."""

    name: str
    fleet: MeasuredFleet
    client: AsyncClient
    max_together: None = None

    def processes(self) -> list[int]:
        """The router's is also the one that asks. Without drafters a fleet is a router and a verifier."""
        workers = self.fleet.workers.running
        needed = ["verifier"] if mode_parts(self.name).max_drafters == 0 else list(workers)
        return [os.getpid(), *(each for name in needed for each in with_children(workers[name].pid))]

    def router_work(self) -> RouterWork | None:
        router = self.fleet.router
        return RouterWork(num_rounds=router.scheduler.figures.num_rounds, busy_s=router.loop.busy_s)

    async def answer(self, questions: Sequence[Question], ask: Ask) -> list[Said]:
        self.fleet.use(self.name)
        options: GenerateOptions = {
            "max_tokens": ask.max_tokens,
            "temperature": ask.temperature,
            "seed": ask.seed,
        }
        load = await run_load(
            self.client,
            [question.tokens for question in questions],
            options,
            concurrency=ask.together,
            on_answer=lambda: None,
        )
        return [_said(answer) for answer in load.answers]

    async def watched(self, question: Question, *, max_tokens: int) -> list[Span]:
        """What all processes did while one request was answered."""
        began_s = time.time()
        await self.answer([question], Ask(max_tokens=max_tokens, temperature=0.0, seed=1, together=1))
        return [span for span in self.fleet.router.timeline.recent if span.began_s >= began_s]


def _said(answer: Answer) -> Said:
    return Said(
        token_ids=answer.token_ids,
        first_token_s=answer.first_token_s,
        token_s=answer.token_s,
        num_rounds=answer.num_rounds,
        acceptance_histogram=answer.acceptance_histogram,
    )
