"""A load of requests, and what is measured of it at the client."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from specfleet.async_client import AsyncClient
from specfleet.events import TokenEvent
from specfleet.options import GenerateOptions, Prompt

__all__ = ["Answer", "Load", "ask", "percentile", "run_load"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One request's answer as its client saw it."""

    token_ids: tuple[int, ...]
    first_token_s: float
    """From asking until the first token came."""
    token_s: float | None
    """Mean time from one token to the next; None where there were fewer than two."""
    elapsed_s: float
    """From asking until the answer was whole."""
    num_rounds: int
    num_draft_tokens: int
    num_accepted_tokens: int
    acceptance_histogram: tuple[int, ...]
    """Rounds by accepted tokens, from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """All answers, in the order of their prompts, and how long they took together."""

    answers: tuple[Answer, ...]
    elapsed_s: float

    @property
    def num_tokens(self) -> int:
        return sum(len(answer.token_ids) for answer in self.answers)

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.elapsed_s

    @property
    def tokens_per_round(self) -> float:
        return self.num_tokens / max(sum(answer.num_rounds for answer in self.answers), 1)


async def run_load(
    client: AsyncClient,
    prompts: Sequence[Prompt],
    options: GenerateOptions,
    *,
    concurrency: int,
    on_answer: Callable[[], None],
) -> Load:
    """Asks all prompts, so many at once; the next begins when one ends."""
    waiting = iter(enumerate(prompts))
    answers: dict[int, Answer] = {}

    async def ask_on() -> None:
        for number, prompt in waiting:
            answers[number] = await ask(client, prompt, options)
            on_answer()

    began_s = time.perf_counter()
    await asyncio.gather(*(ask_on() for _ in range(min(concurrency, len(prompts)))))
    elapsed_s = time.perf_counter() - began_s
    return Load(answers=tuple(answers[number] for number in range(len(prompts))), elapsed_s=elapsed_s)


async def ask(client: AsyncClient, prompt: Prompt, options: GenerateOptions) -> Answer:
    """One request, and what its client sees of the answer."""
    began_s = time.perf_counter()
    events = [event async for event in client.generate(prompt, **options)]
    tokens = [event for event in events if event.token_id is not None]
    statistics = events[-1].statistics
    assert statistics is not None, "the last event has them"
    return Answer(
        token_ids=tuple(event.token_id for event in tokens if event.token_id is not None),
        first_token_s=events[0].received_s - began_s,
        token_s=_token_s(tokens),
        elapsed_s=events[-1].received_s - began_s,
        num_rounds=statistics.num_rounds,
        num_draft_tokens=statistics.num_draft_tokens,
        num_accepted_tokens=statistics.num_accepted_tokens,
        acceptance_histogram=statistics.acceptance_histogram,
    )


def _token_s(tokens: Sequence[TokenEvent]) -> float | None:
    """Tokens of one round come together, so single gaps say little; the mean is what a reader feels."""
    return (tokens[-1].received_s - tokens[0].received_s) / (len(tokens) - 1) if len(tokens) > 1 else None


def percentile(values: Sequence[float], share: float) -> float:
    """The value that so large a share of all does not exceed."""
    ordered = sorted(values)
    rank = math.ceil(share * len(ordered) - 1e-9)  # without what 0.07 * 100 is above 7
    return ordered[max(rank, 1) - 1]
