"""Many verifier groups, each with a router and drafters of its own; a dispatcher deals requests to them in turn.

That is how the service grows: one router, and so one scheduler, for each target group. Groups share nothing while they
run, so they are simulated one after another, or several at a time in processes of their own.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np

from benchmarks.simulator.fleet import Simulated, SimulatedFleet
from benchmarks.simulator.hardware import LINKS, Hardware, Link, ModelShape, analytic_cost
from benchmarks.simulator.machines import DrafterMachine, VerifierMachine
from benchmarks.traces.acceptance import AcceptanceModel, generate_requests
from contracts.errors import InvalidArgument
from contracts.types import DrafterId
from specfleet.cli.load import percentile

__all__ = ["DrafterKind", "Outcome", "Scenario", "simulate"]

_MIN_REST = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterKind:
    """So many drafters in the whole fleet. `voices`: whose guesses of the acceptance model they have, in turn."""

    model: ModelShape
    on: Hardware
    count: int
    voices: tuple[DrafterId, ...]
    link: Link = LINKS["datacentre"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """`rate` is requests a second at the dispatcher; without it each group has `together` requests at a time."""

    target: ModelShape
    on: Hardware
    drafters: tuple[DrafterKind, ...]
    num_requests: int
    num_groups: int = 1
    num_tokens: tuple[int, ...] = (64,)
    num_prompt: int | None = None
    mode: str = "fleet"
    rate: float | None = None
    together: int = 16
    max_draft: int = 8
    max_running: int = 64
    temperature: float = 0.0
    seed: int = 1

    def __post_init__(self) -> None:
        if self.num_groups < 1 or self.num_requests < self.num_groups or self.together < 1:
            raise InvalidArgument(
                f"a scenario has {self.num_requests} requests for {self.num_groups} groups, {self.together} at a time; "
                "right: a group or more, at least a request for each, and one or more at a time"
            )
        if min(self.num_tokens, default=0) < 1 or (self.num_prompt is not None and self.num_prompt < 1):
            raise InvalidArgument(
                f"a scenario has answers of {self.num_tokens} tokens to prompts of {self.num_prompt}; right: 1 or more"
            )
        if any(kind.count < 0 for kind in self.drafters):
            raise InvalidArgument(f"a scenario has {[kind.count for kind in self.drafters]} drafters; right: 0 or more")
        if self.rate is not None and not 0.0 < self.rate < math.inf:  # NaN fails this too
            raise InvalidArgument(f"a scenario has {self.rate} requests a second; right: above 0, and finite")

    @property
    def num_drafters(self) -> int:
        return sum(kind.count for kind in self.drafters)

    @property
    def price(self) -> float:
        """Dollars an hour of all that there is."""
        return self.num_groups * self.on.price + sum(kind.count * kind.on.price for kind in self.drafters)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All groups of a scenario. Throughput counts from the first request to the last answer of each group."""

    scenario: Scenario
    groups: tuple[Simulated, ...]

    @property
    def num_tokens(self) -> int:
        return sum(group.num_tokens for group in self.groups)

    @property
    def tokens_per_s(self) -> float:
        """Of all groups together."""
        return sum(group.tokens_per_s for group in self.groups)

    @property
    def tokens_per_round(self) -> float:
        """Of one request's part of a round."""
        return sum(group.num_tokens for group in self.groups) / sum(group.num_parts for group in self.groups)

    @property
    def verifier_busy_share(self) -> float:
        return sum(g.verifier_busy_s for g in self.groups) / sum(g.elapsed_s for g in self.groups)

    @property
    def drafter_busy_share(self) -> float:
        there_s = sum(g.elapsed_s * len(g.drafter_busy_s) for g in self.groups)
        return sum(sum(g.drafter_busy_s.values()) for g in self.groups) / max(there_s, _MIN_REST)

    @property
    def latencies_s(self) -> list[float]:
        """Of all requests, the shortest first."""
        return sorted(latency for group in self.groups for latency in group.latency_s)

    @property
    def mean_latency_s(self) -> float:
        return float(np.mean(self.latencies_s))

    def latency_quantile_s(self, share: float) -> float:
        return percentile(self.latencies_s, share)

    @property
    def median_first_token_s(self) -> float:
        return float(np.median([first for group in self.groups for first in group.first_token_s]))

    @property
    def dollars_per_million_tokens(self) -> float:
        return self.scenario.price / 3600.0 / self.tokens_per_s * 1e6


def simulate(
    scenario: Scenario,
    model: AcceptanceModel,
    *,
    num_processes: int = 1,
    on_group: Callable[[int], None] | None = None,
) -> Outcome:
    """Every group to its end. `on_group` hears how many are done."""
    numbers = range(scenario.num_groups)
    groups: list[Simulated] = []
    for group in _all(scenario, model, numbers, num_processes):
        groups.append(group)
        if on_group is not None:
            on_group(len(groups))
    return Outcome(scenario=scenario, groups=tuple(groups))


def _all(scenario: Scenario, model: AcceptanceModel, numbers: Sequence[int], num_processes: int) -> Iterator[Simulated]:
    if num_processes <= 1 or len(numbers) == 1:
        for number in numbers:
            yield _run_group(scenario, model, number)
        return
    num = min(num_processes, len(numbers), os.cpu_count() or 1)
    with ProcessPoolExecutor(
        num, mp_context=get_context("spawn"), initializer=_know, initargs=(scenario, model)
    ) as pool:
        yield from pool.map(_run_known, numbers)


_known: list[tuple[Scenario, AcceptanceModel]] = []  # of a process of the pool, so that it is told once


def _know(scenario: Scenario, model: AcceptanceModel) -> None:
    _known[:] = [(scenario, model)]


def _run_known(number: int) -> Simulated:
    return _run_group(*_known[0], number)


def _run_group(scenario: Scenario, model: AcceptanceModel, number: int) -> Simulated:
    machines, voices = _drafters_of(scenario, number)
    # A model without drafters would have nothing to draw; without any the first stays, and nobody asks it.
    spoken = model.with_drafters(voices or {model.drafters[0]: model.drafters[0]})
    count = len(range(number, scenario.num_requests, scenario.num_groups))
    requests, speech = generate_requests(
        spoken,
        count,
        num_tokens=scenario.num_tokens,
        num_prompt=scenario.num_prompt,
        temperature=scenario.temperature,
        seed=scenario.seed + number * (scenario.num_requests + 1),
    )
    cost = analytic_cost(scenario.target, scenario.on)
    verifier = VerifierMachine(cost=cost, link_s=LINKS["machine"].seconds(), max_rows=1024)
    fleet = SimulatedFleet(speech, verifier, machines, max_draft=scenario.max_draft, max_running=scenario.max_running)
    if scenario.rate is None:
        return fleet.run_closed(requests, mode=scenario.mode, together=scenario.together)
    arrivals = _arrivals(scenario)[number :: scenario.num_groups]
    return fleet.run_open(list(zip(arrivals, requests, strict=True)), mode=scenario.mode)


def _arrivals(scenario: Scenario) -> list[float]:
    """At the dispatcher: a Poisson process, the same in every group's process."""
    random = np.random.default_rng([scenario.seed, 1])  # what requests are is drawn from the seed alone
    gaps = random.exponential(1.0 / (scenario.rate or 1.0), size=scenario.num_requests)
    return [float(each) for each in np.cumsum(gaps)]


def _drafters_of(scenario: Scenario, number: int) -> tuple[list[DrafterMachine], dict[DrafterId, DrafterId]]:
    """A group's part of the drafters of each kind, dealt in turn."""
    machines: list[DrafterMachine] = []
    voices: dict[DrafterId, DrafterId] = {}
    for kind in scenario.drafters:
        cost = analytic_cost(kind.model, kind.on)
        for place, _ in enumerate(range(number, kind.count, scenario.num_groups)):
            name = DrafterId(f"{kind.on.name}-{kind.model.name}-{len(machines)}")
            voices[name] = kind.voices[place % len(kind.voices)]
            machines.append(
                DrafterMachine(
                    drafter=name,
                    cost=cost,
                    link_s=kind.link.seconds(),
                    prefill_s_per_token=cost.cost_s(256, 256 * 128) / 256,
                )
            )
    return machines, voices
