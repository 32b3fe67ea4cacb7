"""Which fleet to buy for some traffic: every kind of drafter, some numbers of them beside each verifier, simulated.

For each kind and number: how many tokens a second a group gives when it always has enough to do; so many groups as the
traffic needs with some room; then the traffic itself on one of them, and a group more as long as it is too slow. A
fleet without drafters is among the choices, and wins where drafters do not pay.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from benchmarks.simulator.hardware import Hardware, ModelShape
from benchmarks.simulator.scenario import DrafterKind, Outcome, Scenario, simulate
from benchmarks.traces.acceptance import AcceptanceModel
from contracts.errors import InvalidArgument

__all__ = ["Choice", "Traffic", "best", "choices"]

_FULL = 48  # requests at a time of a group that always has enough to do
_FULL_REQUESTS = 4 * _FULL  # in all of such a group at least, so that half of them neither begin nor end its run
_ROOM = 0.75  # of what a group gives is planned with
_MOST_MORE = 3  # groups beyond what throughput needs, before a choice is given up


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """`rate`: requests a second. `p95_s`: within so long 95 of 100 answers should be complete; None: whenever."""

    rate: float
    num_tokens: tuple[int, ...]
    num_prompt: int | None = None
    p95_s: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.rate < math.inf or min(self.num_tokens, default=0) < 1:  # NaN fails the first too
            raise InvalidArgument(
                f"traffic of {self.rate} requests a second with answers of {self.num_tokens} tokens; right: both above "
                "0, and the first finite"
            )
        if self.p95_s is not None and not self.p95_s > 0.0:
            raise InvalidArgument(f"95 of 100 answers are to be complete within {self.p95_s} s; right: above 0")

    @property
    def tokens_per_s(self) -> float:
        return self.rate * statistics.fmean(self.num_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A fleet, and one of its groups under its part of the traffic. `kind` is None without drafters."""

    kind: DrafterKind | None
    drafters_per_group: int
    num_groups: int
    group: Outcome
    is_quick_enough: bool

    @property
    def name(self) -> str:
        if self.kind is None:
            return "no drafters"
        return f"{self.drafters_per_group} x {self.kind.model.name} on {self.kind.on.name}"

    @property
    def dollars_per_hour(self) -> float:
        return self.num_groups * self.group.scenario.price

    def dollars_per_million(self, traffic: Traffic) -> float:
        return self.dollars_per_hour / 3600.0 / traffic.tokens_per_s * 1e6


def choices(
    target: ModelShape,
    on: Hardware,
    kinds: Sequence[DrafterKind],
    counts: Sequence[int],
    traffic: Traffic,
    model: AcceptanceModel,
    *,
    num_requests: int,
    on_choice: Callable[[Choice], None] | None = None,
) -> list[Choice]:
    """One for each kind and count above 0, and one without drafters. `count` of the kinds is not read."""
    found: list[Choice] = []
    wanted: list[tuple[DrafterKind | None, int]] = [(None, 0)]
    wanted += [(kind, count) for kind in kinds for count in counts if count > 0]
    for kind, count in wanted:
        drafters = (replace(kind, count=count),) if kind is not None else ()
        group = Scenario(
            target=target,
            on=on,
            drafters=drafters,
            num_requests=num_requests,
            num_tokens=traffic.num_tokens,
            num_prompt=traffic.num_prompt,
            mode="fleet" if drafters else "off",
            together=_FULL,
        )
        choice = _sized(group, kind, count, traffic, model)
        found.append(choice)
        if on_choice is not None:
            on_choice(choice)
    return found


def best(found: Sequence[Choice]) -> Choice:
    """The cheapest that is quick enough; the quickest where none is."""
    quick = [choice for choice in found if choice.is_quick_enough]
    if quick:
        return min(quick, key=lambda choice: (choice.dollars_per_hour, choice.group.latency_quantile_s(0.95)))
    return min(found, key=lambda choice: choice.group.latency_quantile_s(0.95))


def _sized(group: Scenario, kind: DrafterKind | None, count: int, traffic: Traffic, model: AcceptanceModel) -> Choice:
    full = replace(group, num_requests=max(group.num_requests, _FULL_REQUESTS))
    most = simulate(full, model).groups[0].full_tokens_per_s
    fewest = max(math.ceil(traffic.tokens_per_s / (_ROOM * most)), 1)
    tried: list[Choice] = []
    for num_groups in range(fewest, fewest + _MOST_MORE + 1):
        outcome = simulate(replace(group, rate=traffic.rate / num_groups), model)
        choice = Choice(
            kind=kind,
            drafters_per_group=count,
            num_groups=num_groups,
            group=outcome,
            is_quick_enough=traffic.p95_s is None or outcome.latency_quantile_s(0.95) <= traffic.p95_s,
        )
        if choice.is_quick_enough:
            return choice
        tried.append(choice)
    return tried[0]  # more groups were of no use
