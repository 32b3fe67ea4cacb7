"""Requests in flight, a fault in their midst, and what became of them."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.generation import Prompt, generate
from contracts.config import EngineConfig
from contracts.types import SamplingParams, StopParams
from engine.local_group import local_engine
from specfleet.async_client import AsyncClient
from specfleet.errors import SpecfleetClientError
from tests.recovery.faults import Fault
from tests.recovery.fleet import HarmedFleet
from tests.service.router_process import until

__all__ = [
    "NUM_REQUESTS",
    "Outcome",
    "Request",
    "check",
    "expected_answers",
    "requests",
    "summary",
    "survive",
    "table",
    "undergo",
]

NUM_REQUESTS = 32
NUM_TOKENS = 64
_SEED = 3
_TEMPERATURES = (0.0, 0.8)
_MODES = ("fleet", "pearl", "vanilla", "off")
_WORDS = ("the", "cat", "sat", "on", "a", "mat", "and", "then", "it", "went", "home", "to", "eat", "some", "fish")
_RESUME_FOR_S = 300.0


@dataclass(frozen=True, slots=True)
class Request:
    """One of those that are in flight when the fault comes."""

    text: str
    temperature: float
    mode: str


@dataclass(slots=True)
class _Heard:
    tokens: list[int] = field(default_factory=list)
    failure: str = ""
    num_twice: int = 0
    num_guessed: int = 0

    @property
    def has_ended(self) -> bool:
        return len(self.tokens) == NUM_TOKENS or bool(self.failure)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a fault did to the requests, of which so many were in flight when it began and when it was over.
    `num_guessed`: of their tokens, by drafters. `recovery_s`: until every one of them that went on had a token again.
    """

    num_requests: int
    num_in_flight: int
    num_in_flight_after: int
    num_guessed: int
    num_lost: int
    num_duplicated: int
    num_changed: int
    recovery_s: float
    failures: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        return self.num_lost == self.num_duplicated == self.num_changed == 0


def requests() -> list[Request]:
    rng = random.Random(0)
    texts = [" ".join(rng.choices(_WORDS, k=rng.randint(1, 24))) for _ in range(NUM_REQUESTS // 2)]
    return [
        Request(text, temperature, _MODES[index % len(_MODES)])
        for temperature in _TEMPERATURES
        for index, text in enumerate(texts)
    ]


def expected_answers(engine: EngineConfig, wanted: Sequence[Request]) -> list[list[int]]:
    """What the engine says by itself, with as many ranks."""
    answers: dict[tuple[str, float], list[int]] = {}
    with local_engine(engine) as loaded:
        for temperature in _TEMPERATURES:
            of = [request for request in wanted if request.temperature == temperature]
            prompts = [Prompt(id=str(index), prompt=request.text) for index, request in enumerate(of)]
            sampling = SamplingParams(temperature=temperature, seed=_SEED)
            stop = StopParams(max_tokens=NUM_TOKENS, ignore_eos=True)
            generated, _ = generate(loaded, prompts, sampling, stop, num_together=len(prompts))
            answers |= {(r.text, temperature): g.token_ids for r, g in zip(of, generated, strict=True)}
    return [answers[request.text, request.temperature] for request in wanted]


async def undergo(
    fleet: HarmedFleet, fault: Fault, wanted: Sequence[Request], expected: Sequence[Sequence[int]], name: str
) -> Outcome:
    """What a fault does to a fleet of processes, which felt it and is whole again when this returns."""
    num_said = len(fleet.router.log.read_text())
    outcome = await survive(fleet.address, lambda: fault.harm(fleet), wanted, expected, name)
    # All may have ended before the router finds that the store is back, and until then it takes nothing new.
    await fleet.router.until_it_says(fault.says, since=num_said)
    await fleet.until_quiet()
    return outcome


async def survive(
    address: str,
    harm: Callable[[], Awaitable[None]],
    wanted: Sequence[Request],
    expected: Sequence[Sequence[int]],
    name: str,
) -> Outcome:
    """All requests at once; when each has begun, the harm; then until all have ended."""
    heard = [_Heard() for _ in wanted]
    async with AsyncClient(address, resume_for_s=_RESUME_FOR_S) as client:
        clients = [
            asyncio.create_task(_listen(client, request, heard[index], f"{name}-{index}"))
            for index, request in enumerate(wanted)
        ]
        await until(lambda: all(len(each.tokens) >= 3 for each in heard), "all requests have begun")
        began_s = time.monotonic()
        num_in_flight = _num_in_flight(heard)
        harming = asyncio.create_task(_num_in_flight_after(harm, heard))
        # Tokens that were on their way are no recovery: what counts is what comes a moment after the harm.
        await asyncio.sleep(0.2)
        before = [len(each.tokens) for each in heard]
        await until(
            lambda: all(_went_on(each, count) for each, count in zip(heard, before, strict=True)),
            "all go on",
            patience_s=_RESUME_FOR_S,
        )
        recovery_s = time.monotonic() - began_s
        await asyncio.gather(harming, *clients)
    return Outcome(
        num_requests=len(wanted),
        num_in_flight=num_in_flight,
        num_in_flight_after=harming.result(),
        num_guessed=sum(each.num_guessed for each in heard),
        num_lost=sum(bool(each.failure) or len(each.tokens) < NUM_TOKENS for each in heard),
        num_duplicated=sum(each.num_twice > 0 for each in heard),
        num_changed=sum(
            each.tokens != list(right[: len(each.tokens)]) for each, right in zip(heard, expected, strict=True)
        ),
        recovery_s=recovery_s,
        failures=tuple(each.failure for each in heard if each.failure),
    )


def check(outcome: Outcome) -> None:
    """Nothing was lost, told twice or changed, and there was something that could have been."""
    assert outcome.is_clean, outcome
    assert outcome.num_in_flight, f"the harm came when all was over: {outcome}"
    assert outcome.num_guessed, f"no drafter had a part in it: {outcome}"


def _num_in_flight(heard: Sequence[_Heard]) -> int:
    return sum(not each.has_ended for each in heard)


async def _num_in_flight_after(harm: Callable[[], Awaitable[None]], heard: Sequence[_Heard]) -> int:
    await harm()
    return _num_in_flight(heard)


def _went_on(heard: _Heard, before: int) -> bool:
    return len(heard.tokens) > before or heard.has_ended


async def _listen(client: AsyncClient, request: Request, heard: _Heard, name: str) -> None:
    try:
        async for event in client.generate(
            request.text,
            request_id=name,
            max_tokens=NUM_TOKENS,
            ignore_eos=True,
            temperature=request.temperature,
            seed=_SEED,
            mode=request.mode,
        ):
            if event.token_id is not None:
                heard.num_twice += event.index is not None and event.index < len(heard.tokens)
                heard.num_guessed += event.drafter is not None
                heard.tokens.append(event.token_id)
    except SpecfleetClientError as error:
        heard.failure = f"{name}: {error}"


def summary(outcomes: Sequence[tuple[str, Outcome]]) -> str:
    """The report of many rounds, in Markdown."""
    lines = [
        "| fault | rounds | requests | lost | duplicated | changed | recovery s, median | longest |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name in sorted({name for name, _ in outcomes}):
        of = [outcome for other, outcome in outcomes if other == name]
        seconds = [outcome.recovery_s for outcome in of]
        lines.append(
            f"| {name} | {len(of)} | {sum(each.num_requests for each in of)} | {sum(each.num_lost for each in of)} | "
            f"{sum(each.num_duplicated for each in of)} | {sum(each.num_changed for each in of)} | "
            f"{statistics.median(seconds):.1f} | {max(seconds):.1f} |"
        )
    return "\n".join(lines)


def table(outcomes: Mapping[str, tuple[str, Outcome]]) -> str:
    """The report of one round of each, in Markdown."""
    lines = [
        "| fault | how | requests in flight | when it was over | lost | duplicated | changed | recovery s |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for fault, (how, of) in outcomes.items():
        lines.append(
            f"| {fault} | {how} | {of.num_in_flight} | {of.num_in_flight_after} | {of.num_lost} | "
            f"{of.num_duplicated} | {of.num_changed} | {of.recovery_s:.1f} |"
        )
    return "\n".join(lines)
