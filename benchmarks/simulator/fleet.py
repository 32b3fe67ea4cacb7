"""A simulated fleet from its first request to its last: the service's scheduler between simulated workers."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from benchmarks.simulator.cores import Cores, OwnCores, SharedCores, Slowdown
from benchmarks.simulator.drafter import SimulatedDrafter
from benchmarks.simulator.events import Events
from benchmarks.simulator.machines import DrafterMachine, RouterMachine, VerifierMachine
from benchmarks.simulator.verifier import SimulatedVerifier
from benchmarks.traces.speech import Speech
from benchmarks.traces.trace import Request
from contracts.clock import VirtualClock
from contracts.errors import Internal
from contracts.types import DrafterId, SamplingParams, SequenceId, TenantId, TokenLogprob
from router.modes import ModeParts, mode_parts
from router.orders import Drafts, RoundDone
from router.scheduler import Scheduler
from router.sequence import RoutedSequence
from specfleet.cli.load import percentile
from speculation.fusion import FusionKind

__all__ = ["Simulated", "SimulatedFleet"]

_TENANT = TenantId("trace")


@dataclass(slots=True)
class _Answer:
    """Where one sequence's tokens go, and when they came."""

    request: Request
    clock: VirtualClock
    asked_s: float
    ended: Callable[[], None]
    first_s: float = 0.0
    last_s: float = 0.0
    num_tokens: int = 0

    def take(
        self, tokens: Sequence[int], guessed_by: Sequence[DrafterId | None], logprobs: Sequence[TokenLogprob]
    ) -> bool:
        room = len(self.request.answer) - self.num_tokens
        self.last_s = self.clock.now_s()
        self.first_s = self.first_s if self.num_tokens else self.last_s
        self.num_tokens += min(len(tokens), room)
        if self.num_tokens < len(self.request.answer):
            return False
        self.ended()
        return True

    def fail(self, code: str, reason: str) -> None:
        raise Internal(f"a simulated verifier fails nobody, but the scheduler says {code}: {reason}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """What a run came to. Times are of the virtual clock."""

    num_requests: int
    num_tokens: int
    num_rounds: int
    num_unasked: int
    num_rows: int
    num_parts: int
    """A sequence's part of a round that decided something for it."""
    elapsed_s: float
    verifier_busy_s: float
    drafter_busy_s: dict[DrafterId, float]
    first_token_s: tuple[float, ...]
    latency_s: tuple[float, ...]
    full_tokens_per_s: float
    """Of a closed run, from when everyone of the first has been followed until nobody is left to follow: without ramp
    and tail. 0 where there was no such time."""

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

    @property
    def mean_latency_s(self) -> float:
        return statistics.fmean(self.latency_s)

    def latency_quantile_s(self, share: float) -> float:
        return percentile(self.latency_s, share)

    @property
    def median_first_token_s(self) -> float:
        return statistics.median(self.first_token_s)


class SimulatedFleet:
    """One router, one verifier group, and drafters. What it learns stays from run to run.

    With `slowdown` all of them share the cores of one machine; else everyone has its own.
    """

    def __init__(
        self,
        speech: Speech,
        verifier: VerifierMachine,
        drafters: Iterable[DrafterMachine],
        *,
        router: RouterMachine | None = None,
        slowdown: Slowdown | None = None,
        max_draft: int = 8,
        max_running: int = 64,
        fusion: FusionKind | None = None,
    ) -> None:
        self.clock = VirtualClock()
        self.max_draft = max_draft  # draft nodes of a sequence in a round
        self._speech = speech
        self._router = router or RouterMachine()
        self._events = Events(self.clock)
        self._cores: Cores = SharedCores(self._events, slowdown) if slowdown is not None else OwnCores(self._events)
        self._requests: dict[SequenceId, Request] = {}
        self._answers: list[_Answer] = []
        self._num_running = 0
        machines = list(drafters)
        self.scheduler = Scheduler(
            self.clock, drafter_order=tuple(m.drafter for m in machines), max_running=max_running, fusion=fusion
        )
        self._is_due, self._timer = False, 0
        self._mail: list[Callable[[], None]] = []
        self._is_reading = False
        self.verifier = SimulatedVerifier(verifier, self._events, self._cores, self._requests, self._round_done)
        self.scheduler.verifier_joined(self.verifier.offer(), self.verifier)
        self.drafters: dict[DrafterId, SimulatedDrafter] = {}
        for machine in machines:
            self.join(machine)

    def join(self, machine: DrafterMachine) -> None:
        name = machine.drafter

        def read(drafts: Drafts) -> None:
            self.scheduler.drafts(name, drafts)
            self._is_due |= self.scheduler.is_idle

        self.drafters[name] = SimulatedDrafter(
            machine,
            self._events,
            self._cores,
            self._speech,
            self._requests,
            lambda drafts: self._deliver(lambda: read(drafts)),
        )
        self.scheduler.drafter_joined(self.drafters[name].offer(), self.drafters[name])
        self._is_due = True

    def run_closed(self, requests: Sequence[Request], *, mode: str | ModeParts, together: int) -> Simulated:
        """So many at a time: as one ends, the next begins."""
        left = deque(requests)
        full: list[tuple[float, int]] = []  # when it begins and when it ends, and the tokens until then

        def more() -> None:
            while left and self._num_running < together:
                self._submit(left.popleft(), mode)
                if len(self._answers) in (2 * together, len(requests)):
                    full.append((self.clock.now_s(), sum(answer.num_tokens for answer in self._answers)))

        run = self._run(len(requests), more)
        (began_s, before), (ended_s, after) = full[0], full[-1]
        return replace(run, full_tokens_per_s=(after - before) / (ended_s - began_s)) if ended_s > began_s else run

    def run_open(self, arrivals: Sequence[tuple[float, Request]], *, mode: str | ModeParts) -> Simulated:
        """Each at its time, counted from now."""
        for after_s, request in arrivals:
            self._events.after(after_s, lambda request=request: self._submit(request, mode))  # type: ignore[misc]
        return self._run(len(arrivals), lambda: None)

    # Inside

    def _submit(self, request: Request, mode: str | ModeParts) -> None:
        number = SequenceId(f"{self.clock.now_s():.9f}-{len(self._answers)}")
        self._requests[number] = request
        self._num_running += 1

        def ended() -> None:
            self._num_running -= 1

        answer = _Answer(request, self.clock, self.clock.now_s(), ended)
        self._answers.append(answer)
        tokens = list(request.prompt)
        self.scheduler.submit(
            RoutedSequence(
                id=number,
                tenant=_TENANT,
                tokens=tokens,
                num_prompt=len(tokens),
                max_tokens=len(request.answer),
                sampling=SamplingParams(temperature=request.temperature, seed=request.seed),
                parts=mode_parts(mode) if isinstance(mode, str) else mode,
                max_draft=self.max_draft,
                drafting=self.scheduler.roster.open(_TENANT, tokens, temperature=request.temperature),
                output=answer,
            )
        )
        self._is_due = True

    def _round_done(self, done: RoundDone) -> None:
        def read() -> None:
            self.scheduler.round_done(done)
            self._is_due = True

        self._deliver(read)

    def _deliver(self, read: Callable[[], None]) -> None:
        """A message to the router: read at once where its processor costs nothing, else when it comes to it."""
        if self._router == RouterMachine():
            read()
            return
        self._mail.append(read)
        self._read_mail()

    def _read_mail(self) -> None:
        if self._is_reading or not self._mail:
            return
        self._is_reading = True
        mail, self._mail = self._mail, []

        def done() -> None:
            self._is_reading = False
            for read in mail:
                read()
            self._read_mail()

        self._cores.run(self._router.wake_s + self._router.message_s * len(mail), done)

    def _tick(self) -> None:
        self._is_due = False
        self._timer += 1
        if (after_s := self.scheduler.tick()) is not None:
            timer = self._timer
            self._events.after(after_s, lambda: self._ring(timer))

    def _ring(self, timer: int) -> None:
        self._is_due |= timer == self._timer  # otherwise something happened since

    def _run(self, num_requests: int, more: Callable[[], None]) -> Simulated:
        self._answers.clear()
        began_s, figures = self.clock.now_s(), self.scheduler.figures
        num_rounds, num_unasked, busy_s = figures.num_rounds, figures.num_unasked, self.verifier.busy_s
        num_rows, num_parts = self.verifier.num_rows, self.verifier.num_parts
        drafting_s = {name: drafter.busy_s for name, drafter in self.drafters.items()}
        more()
        while len(self._answers) < num_requests or self._num_running:
            if self._is_due:
                self._tick()
            if not self._events.next():
                raise Internal("nothing happens any more, and not all answers have ended")
            more()
        answers = self._answers
        return Simulated(
            num_requests=num_requests,
            num_tokens=sum(answer.num_tokens for answer in answers),
            num_rounds=figures.num_rounds - num_rounds,
            num_unasked=figures.num_unasked - num_unasked,
            num_rows=self.verifier.num_rows - num_rows,
            num_parts=self.verifier.num_parts - num_parts,
            elapsed_s=max(answer.last_s for answer in answers) - began_s,
            verifier_busy_s=self.verifier.busy_s - busy_s,
            drafter_busy_s={name: drafter.busy_s - drafting_s[name] for name, drafter in self.drafters.items()},
            first_token_s=tuple(answer.first_s - answer.asked_s for answer in answers),
            latency_s=tuple(answer.last_s - answer.asked_s for answer in answers),
            full_tokens_per_s=0.0,
        )
