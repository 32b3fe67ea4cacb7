"""The service by mode, in turn, over its real wire: `python -m benchmarks.service --help`.

    python -m benchmarks.service --target DIR --drafter DIR --drafter DIR2 --drafter prompt_lookup --prompts FILE.jsonl

The router runs in this process, verifier and drafters as processes of their own. Modes take turns, round by round, so
that what the machine does to one it does to all; ratios are medians over rounds. A mode may lack parts, to see what
they give: fleet-routing, fleet-fusion, fleet-run_ahead, fleet-budget. The tokens of all modes are compared.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.generation import Prompt, read_prompts
from benchmarks.service_rig import MeasuredFleet, measured_fleet, say
from contracts.errors import SpecfleetError
from router.front import FrontLimits
from router.modes import mode_parts
from router.timeline import Span

__all__ = ["main"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one mode did in one round of turns."""

    mode: str
    together: int
    num_tokens: int
    elapsed_s: float
    first_token_s: float
    token_s: float
    """Of each after the first: what reading the prompts took is in `elapsed_s` alone."""
    num_rounds: int
    router_s: float
    idle_share: float
    hidden_share: float
    tokens: tuple[tuple[int, ...], ...]

    @property
    def rate(self) -> float:
        return self.num_tokens / self.elapsed_s


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 when two modes disagree about a token, 2 for a request that can never work."""
    options = _parser().parse_args(arguments)
    options.mode = list(dict.fromkeys(options.mode or ["off", "vanilla", "pearl", "fleet"]))
    options.together = list(dict.fromkeys(options.together or [1]))
    try:
        prompts = read_prompts(options.prompts)[: options.num_prompts]
        lessons = read_prompts(options.teach) if options.teach is not None else []
        for mode in options.mode:
            mode_parts(mode)
        turns = asyncio.run(_measure(options, prompts, lessons))
    except SpecfleetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _print_table(turns, options.mode)
    if (wrong := _disagreeing(turns)) is not None:
        print(f"error: {wrong} gave other tokens than {options.mode[0]}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service", description=__doc__.partition("\n")[0])
    parser.add_argument("--target", required=True, metavar="DIR")
    parser.add_argument(
        "--drafter", action="append", default=[], metavar="KIND_OR_DIR", help="can be given several times"
    )
    parser.add_argument("--prompts", required=True, type=Path, metavar="FILE.jsonl")
    parser.add_argument(
        "--teach",
        type=Path,
        metavar="FILE.jsonl",
        help="prompts to answer first, all of them one at a time in mode fleet: what the router learns of its drafters "
        "from the first minutes of traffic",
    )
    parser.add_argument("--num-prompts", type=int, default=16, metavar="N")
    parser.add_argument("--mode", action="append", metavar="MODE", help="default: off, vanilla, pearl, fleet")
    parser.add_argument("--together", type=int, action="append", metavar="N", help="requests at a time; default: 1")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="turns of each mode (default 3)")
    parser.add_argument("--max-tokens", type=int, default=64, metavar="N")
    parser.add_argument("--max-draft", type=int, default=11, metavar="N")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, metavar="N", help="of the verifier")
    parser.add_argument("--with-target", action="store_true", help="drafters with a model live in the target's process")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    return parser


async def _measure(options: argparse.Namespace, prompts: list[Prompt], lessons: list[Prompt]) -> list[Turn]:
    turns: list[Turn] = []
    limits = FrontLimits(max_draft=options.max_draft, max_waiting=4096)
    async with measured_fleet(
        target=options.target,
        drafters=options.drafter,
        limits=limits,
        dtype=options.dtype,
        threads=options.threads,
        with_target=options.with_target,
        prefix_cache=False,  # every turn asks the same prompts, and a mode would find what another has read
    ) as fleet:
        fleet.use("fleet")
        for lesson in lessons:
            await say(fleet.stub, lesson, max_tokens=options.max_tokens, temperature=options.temperature)
        for together in options.together:
            for number in range(options.rounds + 1):
                for mode in options.mode:
                    fleet.use(mode)
                    turn = await _turn(fleet, prompts, options, mode, together)
                    if number:  # the first is for warming up, and for the router to learn
                        turns.append(turn)
                        print(f"{mode} at {together}: {turn.rate:.1f} tokens/s", file=sys.stderr, flush=True)
    return turns


async def _turn(
    fleet: MeasuredFleet,
    prompts: Sequence[Prompt],
    options: argparse.Namespace,
    mode: str,
    together: int,
) -> Turn:
    router, spans = fleet.router, list[Span]()
    watching = asyncio.create_task(_collect(router.timeline.watch(), spans))
    await asyncio.sleep(0)
    figures, busy_s = router.scheduler.figures, router.loop.busy_s
    num_rounds, began_s = figures.num_rounds, time.perf_counter()
    room = asyncio.Semaphore(together)

    async def in_turn(prompt: Prompt) -> tuple[tuple[int, ...], float, float]:
        async with room:
            asked_s = time.perf_counter()
            tokens, first_s = await say(
                fleet.stub, prompt, max_tokens=options.max_tokens, temperature=options.temperature
            )
            return tokens, first_s, time.perf_counter() - asked_s - first_s

    said = await asyncio.gather(*map(in_turn, prompts))
    elapsed_s = time.perf_counter() - began_s
    await asyncio.sleep(0.05)  # the last spans
    watching.cancel()
    return Turn(
        mode=mode,
        together=together,
        num_tokens=sum(len(tokens) for tokens, _, _ in said),
        elapsed_s=elapsed_s,
        first_token_s=statistics.median(first_s for _, first_s, _ in said),
        token_s=sum(later_s for _, _, later_s in said) / max(sum(len(tokens) - 1 for tokens, _, _ in said), 1),
        num_rounds=figures.num_rounds - num_rounds,
        router_s=router.loop.busy_s - busy_s,
        idle_share=_idle_share(spans),
        hidden_share=_hidden_share(spans),
        tokens=tuple(tokens for tokens, _, _ in said),
    )


async def _collect(batches: AsyncIterator[list[Span]], spans: list[Span]) -> None:
    async for batch in batches:
        spans += batch


def _idle_share(spans: Sequence[Span]) -> float:
    """Part of the time from the first round to the last in which no round ran."""
    rounds = sorted((span.began_s, span.ended_s) for span in spans if span.name == "verify")
    if len(rounds) < 2:
        return 0.0
    return 1.0 - sum(ended - began for began, ended in rounds) / (rounds[-1][1] - rounds[0][0])


def _hidden_share(spans: Sequence[Span]) -> float:
    """Part of the drafting time that passed while a round ran."""
    rounds = sorted((span.began_s, span.ended_s) for span in spans if span.name == "verify")
    drafting = [(span.began_s, span.ended_s) for span in spans if span.name == "draft"]
    total = sum(ended - began for began, ended in drafting)
    hidden = sum(
        max(min(ended, round_ended) - max(began, round_began), 0.0)
        for began, ended in drafting
        for round_began, round_ended in rounds
    )
    return hidden / total if total > 0.0 else 0.0


def _disagreeing(turns: Sequence[Turn]) -> str | None:
    first = turns[0].tokens
    return next((turn.mode for turn in turns if turn.tokens != first), None)


def _print_table(turns: Sequence[Turn], modes: Sequence[str]) -> None:
    print(
        "| requests | mode | tokens/s | times off | first token ms | ms a token after it | times off's pace | "
        "tokens a round | router ms | idle | hidden |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for together in dict.fromkeys(turn.together for turn in turns):
        base = [turn for turn in turns if (turn.mode, turn.together) == (modes[0], together)]
        for mode in modes:
            of = [turn for turn in turns if (turn.mode, turn.together) == (mode, together)]
            pairs = list(zip(of, base, strict=True))
            print(
                f"| {together} | {mode} | {statistics.median(t.rate for t in of):.1f} | "
                f"{_median_and_range([turn.rate / other.rate for turn, other in pairs])} | "
                f"{1e3 * statistics.median(t.first_token_s for t in of):.0f} | "
                f"{1e3 * statistics.median(t.token_s for t in of):.1f} | "
                f"{_median_and_range([other.token_s / turn.token_s for turn, other in pairs])} | "
                f"{statistics.median(t.num_tokens / t.num_rounds for t in of):.2f} | "
                f"{1e3 * statistics.median(t.router_s / t.num_rounds for t in of):.2f} | "
                f"{statistics.median(t.idle_share for t in of):.0%} | "
                f"{statistics.median(t.hidden_share for t in of):.0%} |"
            )


def _median_and_range(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    sys.exit(main())
