"""The same tokens in every mode, at any load, while drafters come and go: `python -m benchmarks.equality --help`.

Each prompt is answered in all modes, at all loads asked for, over the real wire; meanwhile drafters are killed at
random moments and started again. Answers with the same temperature must be the same, token for token.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.generation import Prompt, read_prompts
from benchmarks.service_rig import MeasuredFleet, WorkerProcesses, measured_fleet, name_of, say
from contracts.errors import SpecfleetError
from router.front import FrontLimits
from router.modes import MODES, mode_parts

__all__ = ["main"]

Answers = tuple[tuple[int, ...], ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where two answers differ, 2 for a request that can never work."""
    options = _parser().parse_args(arguments)
    options.mode = options.mode or list(MODES)
    options.together = options.together or [1, 16]
    options.temperature = options.temperature or [0.0, 0.8]
    try:
        prompts = read_prompts(options.prompts)[: options.num_prompts]
        for mode in options.mode:
            mode_parts(mode)
        return asyncio.run(_compare(options, prompts))
    except SpecfleetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.equality", description=__doc__.partition("\n")[0])
    parser.add_argument("--target", required=True, metavar="DIR")
    parser.add_argument(
        "--drafter", action="append", default=[], metavar="KIND_OR_DIR", help="can be given several times"
    )
    parser.add_argument("--prompts", required=True, type=Path, metavar="FILE.jsonl")
    parser.add_argument("--num-prompts", type=int, default=200, metavar="N")
    parser.add_argument("--mode", action="append", metavar="MODE", help="default: all")
    parser.add_argument("--together", type=int, action="append", metavar="N", help="requests at a time; default: 1, 16")
    parser.add_argument("--temperature", type=float, action="append", metavar="T", help="default: 0 and 0.8")
    parser.add_argument("--max-tokens", type=int, default=32, metavar="N")
    parser.add_argument("--max-draft", type=int, default=8, metavar="N")
    parser.add_argument(
        "--churn-s", type=float, default=3.0, metavar="S", help="between two comings or goings, on average"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of comings and goings")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, metavar="N", help="of the verifier")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    return parser


async def _compare(options: argparse.Namespace, prompts: list[Prompt]) -> int:
    limits = FrontLimits(max_draft=options.max_draft, max_waiting=4096)
    num_answers = num_wrong = 0
    async with measured_fleet(
        target=options.target,
        drafters=options.drafter,
        limits=limits,
        dtype=options.dtype,
        threads=options.threads,
    ) as fleet:
        churn = Churn(fleet.workers, [name_of(drafter) for drafter in options.drafter], options.seed, options.churn_s)
        churning = asyncio.create_task(churn.run())
        for temperature in options.temperature:
            truth: Answers | None = None
            for together in options.together:
                for mode in options.mode:
                    fleet.use(mode)
                    answers = await _answers(fleet, prompts, options.max_tokens, temperature, together)
                    truth = truth or answers
                    wrong = sum(answer != right for answer, right in zip(answers, truth, strict=True))
                    num_answers, num_wrong = num_answers + len(answers), num_wrong + wrong
                    print(
                        f"temperature {temperature}, {together} at once, {mode}: {len(answers)} answers, "
                        f"{sum(map(len, answers))} tokens, {wrong} differ",
                        flush=True,
                    )
        churning.cancel()
        figures = fleet.router.scheduler.figures
    print(
        f"{num_answers} answers to {len(prompts)} prompts, {num_wrong} differ; {figures.num_tokens} tokens in "
        f"{figures.num_rounds} rounds; drafters killed {churn.num_killed} times, started {churn.num_started} times"
    )
    return 1 if num_wrong else 0


async def _answers(
    fleet: MeasuredFleet, prompts: Sequence[Prompt], max_tokens: int, temperature: float, together: int
) -> Answers:
    room = asyncio.Semaphore(together)

    async def in_turn(prompt: Prompt) -> tuple[int, ...]:
        async with room:
            return (await say(fleet.stub, prompt, max_tokens=max_tokens, temperature=temperature))[0]

    return tuple(await asyncio.gather(*map(in_turn, prompts)))


class Churn:
    """Kills and starts drafters at random moments, by a seed."""

    def __init__(self, workers: WorkerProcesses, names: Sequence[str], seed: int, mean_s: float) -> None:
        self.num_killed = self.num_started = 0
        self._workers, self._names, self._chance, self._mean_s = workers, names, random.Random(seed), mean_s

    async def run(self) -> None:
        while self._names:
            await asyncio.sleep(self._chance.expovariate(1.0 / self._mean_s))
            name = self._chance.choice(self._names)
            if name in self._workers.running:
                self._workers.kill(name)
                self.num_killed += 1
            else:
                self._workers.start(name)
                self.num_started += 1


if __name__ == "__main__":
    sys.exit(main())
