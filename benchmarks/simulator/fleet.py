"""A simulated fleet from its first request to its last: the service's scheduler between simulated workers."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from benchmarks.simulator.events import Events
from benchmarks.simulator.machines import DrafterMachine, VerifierMachine
from benchmarks.simulator.workers import SimulatedDrafter, SimulatedVerifier
from benchmarks.traces.trace import Request, Trace
from contracts.clock import VirtualClock
from contracts.errors import Internal
from contracts.types import DrafterId, SamplingParams, SequenceId, TenantId, TokenLogprob
from router.modes import mode_parts
from router.orders import Drafts, RoundDone
from router.scheduler import Scheduler
from router.sequence import RoutedSequence
from speculation.fusion import FusionKind

__all__ = ["Simulated", "SimulatedFleet"]

_TENANT = TenantId("trace")


@dataclass(slots=True)
class _Answer:
    """Where one sequence's tokens go, and when they came."""

    request: Request
    clock: VirtualClock
    asked_s: float
    came_s: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    has_ended: bool = False

    def take(
        self, tokens: Sequence[int], guessed_by: Sequence[DrafterId | None], logprobs: Sequence[TokenLogprob]
    ) -> bool:
        room = len(self.request.answer) - len(self.tokens)
        self.tokens += tokens[:room]
        self.came_s += [self.clock.now_s()] * min(len(tokens), room)
        self.has_ended = len(self.tokens) == len(self.request.answer)
        return self.has_ended

    def fail(self, code: str, reason: str) -> None:
        raise Internal(f"a simulated verifier fails nobody, but the scheduler says {code}: {reason}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """What a run came to. Times are of the virtual clock."""

    num_requests: int
    num_tokens: int
    num_rounds: int
    num_unasked: int
    elapsed_s: float
    verifier_busy_s: float
    drafter_busy_s: dict[DrafterId, float]
    first_token_s: tuple[float, ...]
    latency_s: tuple[float, ...]

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.elapsed_s

    @property
    def tokens_per_round(self) -> float:
        """Of all sequences together."""
        return self.num_tokens / self.num_rounds

    @property
    def idle_share(self) -> float:
        return 1.0 - self.verifier_busy_s / self.elapsed_s

    def latency_quantile_s(self, share: float) -> float:
        return sorted(self.latency_s)[min(int(share * len(self.latency_s)), len(self.latency_s) - 1)]

    @property
    def median_first_token_s(self) -> float:
        return statistics.median(self.first_token_s)


class SimulatedFleet:
    """One scheduler, one verifier, and drafters. What it learns stays from run to run."""

    def __init__(
        self,
        trace: Trace,
        verifier: VerifierMachine,
        drafters: Iterable[DrafterMachine],
        *,
        max_draft: int = 8,
        max_running: int = 64,
        fusion: FusionKind | None = None,
    ) -> None:
        self.clock = VirtualClock()
        self.max_draft = max_draft
        self._events = Events(self.clock)
        self._requests: dict[SequenceId, Request] = {}
        self._answers: dict[SequenceId, _Answer] = {}
        machines = list(drafters)
        self.scheduler = Scheduler(
            self.clock, drafter_order=tuple(m.drafter for m in machines), max_running=max_running, fusion=fusion
        )
        self._is_due, self._timer = False, 0
        self.verifier = SimulatedVerifier(verifier, self._events, self._requests, self._round_done)
        self.scheduler.verifier_joined(self.verifier.offer(), self.verifier)
        self.drafters: dict[DrafterId, SimulatedDrafter] = {}
        for machine in machines:
            self.join(machine, trace)

    def join(self, machine: DrafterMachine, trace: Trace) -> None:
        name = machine.drafter

        def tell(drafts: Drafts) -> None:
            self.scheduler.drafts(name, drafts)
            self._is_due |= self.scheduler.is_idle

        self.drafters[name] = SimulatedDrafter(machine, self._events, trace, self._requests, tell)
        self.scheduler.drafter_joined(self.drafters[name].offer(), self.drafters[name])
        self._is_due = True

    def run_closed(self, requests: Sequence[Request], *, mode: str, together: int) -> Simulated:
        """So many at a time: as one ends, the next begins."""
        left = deque(requests)

        def more() -> None:
            while left and sum(not answer.has_ended for answer in self._answers.values()) < together:
                self._submit(left.popleft(), mode)

        return self._run(len(requests), more)

    def run_open(self, arrivals: Sequence[tuple[float, Request]], *, mode: str) -> Simulated:
        """Each at its time, counted from now."""
        for after_s, request in arrivals:
            self._events.after(after_s, lambda request=request: self._submit(request, mode))  # type: ignore[misc]
        return self._run(len(arrivals), lambda: None)

    # Inside

    def _submit(self, request: Request, mode: str) -> None:
        number = SequenceId(str(len(self._requests)))
        self._requests[number] = request
        answer = self._answers[number] = _Answer(request, self.clock, self.clock.now_s())
        tokens = list(request.prompt)
        self.scheduler.submit(
            RoutedSequence(
                id=number,
                tenant=_TENANT,
                tokens=tokens,
                num_prompt=len(tokens),
                max_tokens=len(request.answer),
                sampling=SamplingParams(temperature=request.temperature, seed=request.seed),
                parts=mode_parts(mode),
                max_draft=self.max_draft,
                drafting=self.scheduler.roster.open(_TENANT, tokens, temperature=request.temperature),
                output=answer,
            )
        )
        self._is_due = True

    def _round_done(self, done: RoundDone) -> None:
        self.scheduler.round_done(done)
        self._is_due = True

    def _tick(self) -> None:
        self._is_due = False
        self._timer += 1
        if (after_s := self.scheduler.tick()) is not None:
            timer = self._timer
            self._events.after(after_s, lambda: self._ring(timer))

    def _ring(self, timer: int) -> None:
        self._is_due |= timer == self._timer  # otherwise something happened since

    def _run(self, num_requests: int, more: object) -> Simulated:
        assert callable(more), "asked after every event"
        self._answers.clear()
        began_s, figures = self.clock.now_s(), self.scheduler.figures
        num_rounds, num_unasked, busy_s = figures.num_rounds, figures.num_unasked, self.verifier.busy_s
        drafting_s = {name: drafter.busy_s for name, drafter in self.drafters.items()}
        more()
        while len(self._answers) < num_requests or not all(answer.has_ended for answer in self._answers.values()):
            if self._is_due:
                self._tick()
            if not self._events.next():
                raise Internal("nothing happens any more, and not all answers have ended")
            more()
        answers = list(self._answers.values())
        return Simulated(
            num_requests=num_requests,
            num_tokens=sum(len(answer.tokens) for answer in answers),
            num_rounds=figures.num_rounds - num_rounds,
            num_unasked=figures.num_unasked - num_unasked,
            elapsed_s=max(answer.came_s[-1] for answer in answers) - began_s,
            verifier_busy_s=self.verifier.busy_s - busy_s,
            drafter_busy_s={name: drafter.busy_s - drafting_s[name] for name, drafter in self.drafters.items()},
            first_token_s=tuple(answer.came_s[0] - answer.asked_s for answer in answers),
            latency_s=tuple(answer.came_s[-1] - answer.asked_s for answer in answers),
        )
