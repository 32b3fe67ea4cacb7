"""What all measurements of policies share: the requests of a trace in a mixed order, its fleet, its costs."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from statistics import fmean, median

from benchmarks.traces.replay import play_chain
from benchmarks.traces.trace import Request, Trace
from contracts.types import DrafterId
from speculation.cost import CostTable
from speculation.roster import Member, Roster

__all__ = ["best_of_domains", "cost_of", "fleet_of", "mixed", "step_s_of"]


def mixed(trace: Trace, temperature: float, *, seed: int, per_domain: int | None = None) -> list[Request]:
    """The requests of one temperature, at most so many of each domain, shuffled."""
    by_domain: dict[str, list[Request]] = {}
    for request in trace.requests:
        if request.temperature == temperature:
            by_domain.setdefault(request.domain, []).append(request)
    requests = [request for of in by_domain.values() for request in of[:per_domain]]
    random.Random(seed).shuffle(requests)
    return requests


def cost_of(trace: Trace) -> CostTable:
    """The cost table of the target that was timed."""
    cost = CostTable()
    for report in trace.step_reports[None]:
        cost.observe(report)
    return cost


def step_s_of(trace: Trace, drafter: DrafterId) -> float:
    """A draft step of one sequence, or of as few as there were."""
    reports = trace.step_reports[drafter]
    fewest = min(report.num_sequences for report in reports)
    return median(report.elapsed_s for report in reports if report.num_sequences == fewest)


def fleet_of(trace: Trace) -> Roster:
    """A roster that knows the drafters of a trace and nothing about them but their speed."""
    roster = Roster()
    for drafter in trace.drafters:
        roster.join(Member(drafter=drafter, has_logits=True, step_s=step_s_of(trace, drafter)))
    return roster


def best_of_domains(
    trace: Trace, requests: Sequence[Request], *, chain: int = 8, voice_of: Mapping[DrafterId, DrafterId] | None = None
) -> dict[str, DrafterId]:
    """The oracle: for each domain the drafter whose chains commit most over all of its requests. It knows the domain
    and all outcomes; a router knows neither. `voice_of`: whose drafts a drafter has meanwhile, if not its own."""
    voices = {drafter: (voice_of or {}).get(drafter, drafter) for drafter in trace.drafters}
    best: dict[str, DrafterId] = {}
    for domain in dict.fromkeys(request.domain for request in requests):
        committed = {
            drafter: fmean(
                tokens
                for request in requests
                if request.domain == domain
                for _, tokens in play_chain(trace.matches(request, voice), chain)
            )
            for drafter, voice in voices.items()
        }
        best[domain] = max(committed, key=lambda drafter: committed[drafter])
    return best
