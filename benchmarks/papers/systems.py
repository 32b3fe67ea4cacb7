"""Systems as configurations: what each does with drafters, and how it is run. All meet the same guesses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.simulator.cores import Slowdown
from benchmarks.simulator.fleet import Simulated, SimulatedFleet
from benchmarks.simulator.machines import DrafterMachine, VerifierMachine
from benchmarks.traces.speech import Speech
from benchmarks.traces.trace import Request
from router.modes import ModeParts, mode_parts
from speculation.fusion import FusionKind

__all__ = ["Bench", "System", "ablations", "chain", "plain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """`max_draft`: draft nodes of a request in a round at most. `drafters`: which of the bench's, all if none."""

    name: str
    parts: ModeParts
    max_draft: int = 8
    fusion: FusionKind | None = None
    drafters: tuple[int, ...] = ()
    is_ours: bool = False


def plain(name: str = "plain") -> System:
    """Continuous batching without drafts."""
    return System(name=name, parts=ModeParts(max_drafters=0))


def chain(name: str, length: int, *, runs_ahead: bool = False, drafters: tuple[int, ...] = ()) -> System:
    """One drafter, chains of one length, always."""
    parts = ModeParts(max_drafters=1, is_chain=True, is_priced=False, runs_ahead=runs_ahead, takes_turns=not runs_ahead)
    return System(name=name, parts=parts, max_draft=length, drafters=drafters)


def ablations(*less: str, drafters: tuple[int, ...] = ()) -> list[System]:
    """Ours, and ours without each of these parts."""
    modes = ["fleet", *(f"fleet-{part}" for part in less)]
    return [System(name=mode, parts=mode_parts(mode), is_ours=True, drafters=drafters) for mode in modes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Machines and requests that all systems have in common. The first `num_warm` requests teach, and are not counted.

    `slowdown`: of target and drafters where they share a device.
    """

    speech: Speech
    requests: Sequence[Request]
    num_warm: int
    verifier: VerifierMachine
    drafters: Sequence[DrafterMachine]
    slowdown: Slowdown | None = None
    max_running: int = 64

    def closed(self, system: System, together: int) -> Simulated:
        fleet = self._fleet(system)
        fleet.run_closed(self.requests[: self.num_warm], mode=system.parts, together=together)
        return fleet.run_closed(self.requests[self.num_warm :], mode=system.parts, together=together)

    def open(self, system: System, arrivals: Callable[[int], Sequence[float]]) -> Simulated:
        """`arrivals` of so many requests, counted from the start."""
        fleet = self._fleet(system)
        fleet.run_closed(self.requests[: self.num_warm], mode=system.parts, together=8)
        counted = self.requests[self.num_warm :]
        return fleet.run_open(list(zip(arrivals(len(counted)), counted, strict=True)), mode=system.parts)

    def _fleet(self, system: System) -> SimulatedFleet:
        machines = [self.drafters[index] for index in system.drafters] if system.drafters else list(self.drafters)
        return SimulatedFleet(
            self.speech,
            self.verifier,
            machines if system.parts.max_drafters else [],
            slowdown=self.slowdown,
            max_draft=system.max_draft,
            max_running=self.max_running,
            fusion=system.fusion,
        )
