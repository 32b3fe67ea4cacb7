"""Runs one face's grammar against a fleet: for as long as is wanted, or a short slice of it that is always the same."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis.strategies import SearchStrategy

from tests.fuzz.target import Target, target

__all__ = ["Attempt", "fuzz", "main"]

Attempt = Callable[[Target, object], Awaitable[None]]
"""Says one example to the fleet; fails where an answer is none that is documented."""
_BATCH = 100


def fuzz(
    grammar: Callable[[], SearchStrategy[object]],
    attempt: Attempt,
    *,
    seed: int,
    num_examples: int = _BATCH,
    minutes: float = 0.0,
) -> Counter[str]:
    """Batches of examples until the time is over, at least one; what was heard, by code. After each batch the fleet
    must be well and hold what it held before."""
    heard: Counter[str] = Counter()
    with asyncio.Runner() as runner:
        fleet = target()
        found = runner.run(fleet.__aenter__())
        try:
            runner.run(found.is_well())
            before, end_s = runner.run(found.holds()), time.monotonic() + 60.0 * minutes
            while True:
                _batch(runner, grammar(), attempt, found, seed=seed, num_examples=num_examples)
                runner.run(found.is_well())
                runner.run(found.is_as_before(before))
                seed += 1
                if time.monotonic() >= end_s:
                    heard.update(found.heard)
                    return heard
        finally:
            runner.run(fleet.__aexit__(None, None, None))


def _batch(
    runner: asyncio.Runner,
    examples: SearchStrategy[object],
    attempt: Attempt,
    found: Target,
    *,
    seed: int,
    num_examples: int,
) -> None:
    @hypothesis.seed(seed)
    @settings(
        max_examples=num_examples,
        phases=(Phase.generate,),  # nothing is made smaller: what depends on timing cannot be, and takes long
        derandomize=False,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @hypothesis.given(examples)
    def each(example: object) -> None:
        async def play() -> None:
            found.faults.clear()
            await attempt(found, example)
            assert not found.faults, found.faults

        runner.run(play())

    each()


def main(face: str, grammar: Callable[[], SearchStrategy[object]], attempt: Attempt) -> None:
    """The command of a face."""
    parser = argparse.ArgumentParser(prog=f"python -m tests.fuzz.{face}")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the first batch (default: the time)")
    options = parser.parse_args()
    print(f"{face}: seeds from {options.seed}, {options.minutes:g} minutes", flush=True)
    heard = fuzz(grammar, attempt, seed=options.seed, minutes=options.minutes)
    print(f"{face}: {sum(heard.values())} answers, nothing found")
    for code, number in heard.most_common():
        print(f"{number:9d}  {code}")
