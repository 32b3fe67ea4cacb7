"""Requests that arrive when they like, as those of many users do: through gRPC, whether or not the fleet keeps up."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from benchmarks.peers.fleet import FleetMode
from benchmarks.peers.workloads import Workload
from specfleet.cli.load import Answer, ask, percentile, run_load
from specfleet.options import GenerateOptions

__all__ = ["LOADS", "Arrivals", "arrival_times", "measure_arrivals", "measure_capacity"]

LOADS = {"low": (0.3,), "high": (0.8,), "fluctuating": (0.2, 1.2, 0.2, 1.2)}
"""Parts of what `off` can answer; with several, each holds for an equal part of the time."""
_CAPACITY_TOGETHER = 16
_CAPACITY_REQUESTS = 4 * _CAPACITY_TOGETHER  # so that beginning and end, with fewer at once, are a small part
_SHARES = (0.5, 0.9, 0.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """One mode under one load; seconds by percentile, over the requests of all its turns."""

    load: str
    mode: str
    requests_per_s: float
    """That were asked."""
    num_requests: int
    tokens_per_s: float
    latency_s: dict[str, float]
    first_token_s: dict[str, float]
    token_s: dict[str, float]


def arrival_times(rates: Sequence[float], *, seconds: float, seed: int) -> list[float]:
    """Of a Poisson process that has each rate, in requests per second, for an equal part of the time."""
    chance, part_s, times = random.Random(seed), seconds / len(rates), list[float]()
    for number, rate in enumerate(rates):
        # A Poisson process has no memory, so every part may begin afresh.
        at_s = number * part_s + chance.expovariate(rate)
        while at_s < (number + 1) * part_s:
            times.append(at_s)
            at_s += chance.expovariate(rate)
    return times


async def measure_arrivals(
    load: str,
    modes: Sequence[FleetMode],
    work: Workload,
    *,
    capacity: float,
    seconds: float,
    num_alternations: int,
    max_tokens: int,
) -> list[Arrivals]:
    """The modes in turn with the same arrivals; each alternation has arrivals of its own."""
    answers: dict[str, list[Answer]] = {mode.name: [] for mode in modes}
    elapsed_s = dict.fromkeys(answers, 0.0)
    for number in range(num_alternations):
        times = arrival_times([part * capacity for part in LOADS[load]], seconds=seconds, seed=number)
        for mode in modes:
            began_s = time.perf_counter()
            answers[mode.name] += await _asked(mode, _prompts(work, number), _options(max_tokens), times)
            elapsed_s[mode.name] += time.perf_counter() - began_s
    return [
        _arrivals(load, mode.name, answers[mode.name], elapsed_s[mode.name], num_alternations * seconds)
        for mode in modes
        if answers[mode.name]
    ]


async def measure_capacity(mode: FleetMode, work: Workload, *, max_tokens: int) -> float:
    """Requests per second that a fleet without drafts answers, when many ask at once."""
    mode.fleet.use("off")
    prompts, options = list(islice(_prompts(work, 0), _CAPACITY_REQUESTS)), _options(max_tokens)
    load = await run_load(mode.client, prompts, options, concurrency=_CAPACITY_TOGETHER, on_answer=lambda: None)
    return len(load.answers) / load.elapsed_s


def _options(max_tokens: int) -> GenerateOptions:
    return {"max_tokens": max_tokens, "temperature": 0.0}


def _prompts(work: Workload, number: int) -> Iterator[Sequence[int]]:
    """Without end. Alternations begin with other ones."""
    first = number % len(work.alternations)
    turns = [*work.alternations[first:], *work.alternations[:first]]
    return cycle(question.tokens for turn in turns for question in turn)


async def _asked(
    mode: FleetMode, prompts: Iterator[Sequence[int]], options: GenerateOptions, times: Sequence[float]
) -> list[Answer]:
    mode.fleet.use(mode.name)
    began_s = time.perf_counter()

    async def at(due_s: float, prompt: Sequence[int]) -> Answer:
        await asyncio.sleep(max(began_s + due_s - time.perf_counter(), 0.0))
        return await ask(mode.client, prompt, options)

    return await asyncio.gather(*(at(due_s, prompt) for due_s, prompt in zip(times, prompts, strict=False)))


def _arrivals(load: str, mode: str, answers: Sequence[Answer], elapsed_s: float, asking_s: float) -> Arrivals:
    return Arrivals(
        load=load,
        mode=mode,
        requests_per_s=len(answers) / asking_s,
        num_requests=len(answers),
        tokens_per_s=sum(len(answer.token_ids) for answer in answers) / elapsed_s,
        latency_s=_percentiles([answer.elapsed_s for answer in answers]),
        first_token_s=_percentiles([answer.first_token_s for answer in answers]),
        token_s=_percentiles([answer.token_s for answer in answers if answer.token_s is not None] or [0.0]),
    )


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    return {f"p{100 * share:.0f}": percentile(seconds, share) for share in _SHARES}
