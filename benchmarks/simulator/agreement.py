"""The real fleet on this machine, and what the simulator says of it: `python -m benchmarks.simulator.agreement --help`.

    python -m benchmarks.record_traces --target DIR --drafter DIR2 --drafter DIR3 --prompts FILE.jsonl --temperature 0
        --nodes 16 --max-tokens 40 --time-target DIR300M --out FILE.npz
    python -m benchmarks.simulator.agreement --target DIR300M --drafter DIR2 --drafter DIR3 --prompts FILE.jsonl
        --trace FILE.npz --max-tokens 40 --out DIR

The trace says what drafters guess and what steps cost alone. How much verifier and drafters slow each other down on the
cores they share is measured first, on engines without a fleet. What messages cost comes from two runs of the real
fleet, `off` and `pearl` with one request, which are not among those that count. Then every other configuration is run
for real and simulated, in the same order, so that both have learned the same when it comes to the next.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.generation import Prompt, read_prompts
from benchmarks.service_rig import MeasuredFleet, measured_fleet, name_of, say
from benchmarks.simulator.contention import Worker, measure_slowdown
from benchmarks.simulator.cores import MeasuredSlowdown
from benchmarks.simulator.drawing import COLOURS, figure, finish
from benchmarks.simulator.fleet import SimulatedFleet
from benchmarks.simulator.machines import DrafterMachine, RouterMachine, VerifierMachine, measured_cost
from benchmarks.traces.speech import RecordedSpeech
from benchmarks.traces.trace import Request, Trace, read_trace
from contracts.errors import InvalidArgument, SpecfleetError
from contracts.types import DrafterId, StepReport
from router.front import FrontLimits
from router.modes import mode_parts
from router.timeline import Span

__all__ = ["Configuration", "Figures", "main"]

_TOLERANCE = 0.15
_MODES = ("off", "vanilla", "pearl", "fleet")
_TOGETHER = (1, 4, 8)
_LOOPBACK_S = 0.0001


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    mode: str
    together: int

    @property
    def name(self) -> str:
        return f"{self.mode} at {self.together}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of one configuration, real or simulated."""

    tokens_per_s: float
    mean_latency_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Real:
    """What a real run showed besides."""

    figures: Figures
    elapsed_s: float
    num_rounds: int
    num_drafts: int
    router_s: float
    """CPU time of this process: the router and the client."""
    round_s: float
    """Median time of a round at the verifier."""
    between_s: float
    """Median time from the end of a round to the beginning of the next."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where a configuration is off by more than the tolerance, 2 for what can never work."""
    options = _parser().parse_args(arguments)
    try:
        trace = read_trace(options.trace)
        prompts = read_prompts(options.prompts)[: options.num_prompts]
        requests = _requests(trace, len(prompts), options)
        plan = [Configuration(mode=mode, together=together) for together in options.together for mode in options.mode]
        for configuration in plan:
            mode_parts(configuration.mode)
        slowdown = _slowdown(options)
        calibration, measured = asyncio.run(_measure(options, prompts, plan))
    except SpecfleetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    predicted = _predict(trace, requests, plan, calibration, slowdown, options)
    print(_table(plan, measured, predicted))
    if options.out is not None:
        _write(options.out, plan, measured, predicted, slowdown)
    counted = [c for c in plan if not _is_calibration(c)]
    errors = [abs(predicted[c].tokens_per_s / measured[c].tokens_per_s - 1.0) for c in counted]
    print(f"\n{sum(error <= _TOLERANCE for error in errors)} of {len(errors)} within {_TOLERANCE:.0%} of throughput")
    return 0 if all(error <= _TOLERANCE for error in errors) else 1


def _is_calibration(configuration: Configuration) -> bool:
    return configuration.together == 1 and configuration.mode in ("off", "pearl")


def _requests(trace: Trace, count: int, options: argparse.Namespace) -> list[Request]:
    """Those of the prompts, in their order."""
    greedy = [request for request in trace.requests if request.temperature == 0.0]
    longest = max((len(request.answer) for request in greedy), default=0)
    if len(greedy) < count or longest > options.max_tokens:
        raise InvalidArgument(
            f"the trace has {len(greedy)} greedy requests of up to {longest} tokens; it has to be recorded for "
            f"the same {count} prompts with --max-tokens {options.max_tokens}"
        )
    return greedy[:count]


def _slowdown(options: argparse.Namespace) -> MeasuredSlowdown:
    print("measuring how drafters and verifier slow each other down", file=sys.stderr, flush=True)
    verifier = Worker(folder=options.target, num_threads=options.threads, dtype=options.dtype)
    drafters = [Worker(folder=folder, num_threads=1, dtype=options.dtype) for folder in options.drafter]
    return measure_slowdown(verifier, drafters, seconds=options.contention_s)


# The real fleet


async def _measure(
    options: argparse.Namespace, prompts: Sequence[Prompt], plan: Sequence[Configuration]
) -> tuple[dict[str, _Real], dict[Configuration, Figures]]:
    """What calibrates, by mode, and every configuration: the median of the turns after the first."""
    limits = FrontLimits(max_draft=options.max_draft, max_waiting=4096)
    calibration: dict[str, _Real] = {}
    turns: dict[Configuration, list[Figures]] = {}
    async with measured_fleet(
        target=options.target, drafters=options.drafter, limits=limits, dtype=options.dtype, threads=options.threads
    ) as fleet:
        for configuration in _order(plan, options.rounds):
            fleet.use(configuration.mode)
            real = await _turn(fleet, prompts, configuration, options.max_tokens)
            turns.setdefault(configuration, []).append(real.figures)
            if _is_calibration(configuration):
                calibration[configuration.mode] = real
            print(f"{configuration.name}: {real.figures.tokens_per_s:.1f} tokens/s", file=sys.stderr, flush=True)
    return calibration, {configuration: _median(of[1:]) for configuration, of in turns.items()}


def _order(plan: Sequence[Configuration], num_rounds: int) -> list[Configuration]:
    """Load by load, the modes in turn; the first turn of each is for warming up."""
    loads = dict.fromkeys(configuration.together for configuration in plan)
    return [c for load in loads for _ in range(num_rounds + 1) for c in plan if c.together == load]


async def _turn(
    fleet: MeasuredFleet, prompts: Sequence[Prompt], configuration: Configuration, max_tokens: int
) -> _Real:
    router, spans = fleet.router, list[Span]()
    watching = asyncio.create_task(_collect(router.timeline.watch(), spans))
    await asyncio.sleep(0)
    num_rounds, cpu_s, began_s = router.scheduler.figures.num_rounds, time.process_time(), time.perf_counter()
    room = asyncio.Semaphore(configuration.together)

    async def in_turn(prompt: Prompt) -> tuple[int, float]:
        async with room:
            asked_s = time.perf_counter()
            tokens, _ = await say(fleet.stub, prompt, max_tokens=max_tokens, temperature=0.0)
            return len(tokens), time.perf_counter() - asked_s

    said = await asyncio.gather(*map(in_turn, prompts))
    elapsed_s, router_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    await asyncio.sleep(0.05)  # the last spans
    watching.cancel()
    rounds = sorted((span.began_s, span.ended_s) for span in spans if span.name == "verify")
    return _Real(
        figures=Figures(
            tokens_per_s=sum(num for num, _ in said) / elapsed_s,
            mean_latency_s=statistics.fmean(latency_s for _, latency_s in said),
        ),
        elapsed_s=elapsed_s,
        num_rounds=router.scheduler.figures.num_rounds - num_rounds,
        num_drafts=sum(span.name == "draft" for span in spans),
        router_s=router_s,
        round_s=statistics.median(ended - began for began, ended in rounds),
        between_s=statistics.median(max(later[0] - sooner[1], 0.0) for sooner, later in pairwise(rounds)),
    )


async def _collect(batches: AsyncIterator[list[Span]], spans: list[Span]) -> None:
    async for batch in batches:
        spans += batch


def _median(of: Sequence[Figures]) -> Figures:
    return Figures(
        tokens_per_s=statistics.median(each.tokens_per_s for each in of),
        mean_latency_s=statistics.median(each.mean_latency_s for each in of),
    )


# The simulated one


def _predict(
    trace: Trace,
    requests: Sequence[Request],
    plan: Sequence[Configuration],
    calibration: dict[str, _Real],
    slowdown: MeasuredSlowdown,
    options: argparse.Namespace,
) -> dict[Configuration, Figures]:
    plain, drafting = calibration["off"], calibration["pearl"]
    router_s = plain.router_s / plain.num_rounds
    message_s = max(drafting.router_s - router_s * drafting.num_rounds, 0.0) / max(drafting.num_drafts, 1)
    # The machine may be slower or faster now than when steps were timed.
    context = statistics.fmean(len(request.prompt) + len(request.answer) / 2 for request in requests)
    pace = plain.round_s / measured_cost(trace.step_reports[None]).cost_s(1, context)
    fleet = SimulatedFleet(
        RecordedSpeech(trace),
        VerifierMachine(
            cost=measured_cost(_paced(trace.step_reports[None], pace)),
            link_s=_LOOPBACK_S,
            handling_s=plain.between_s,
            num_threads=options.threads,
        ),
        [
            DrafterMachine(
                drafter=drafter,
                cost=measured_cost(_paced(trace.step_reports[drafter], pace)),
                link_s=_LOOPBACK_S,
            )
            for drafter in (DrafterId(name_of(folder)) for folder in options.drafter)
        ],
        router=RouterMachine(wake_s=router_s, message_s=message_s),
        slowdown=slowdown,
        max_draft=options.max_draft,
    )
    turns: dict[Configuration, list[Figures]] = {}
    for configuration in _order(plan, options.rounds):
        result = fleet.run_closed(requests, mode=configuration.mode, together=configuration.together)
        figures = Figures(tokens_per_s=result.tokens_per_s, mean_latency_s=result.mean_latency_s)
        turns.setdefault(configuration, []).append(figures)
    return {configuration: _median(of[1:]) for configuration, of in turns.items()}


def _paced(reports: Sequence[StepReport], pace: float) -> list[StepReport]:
    return [replace(report, elapsed_s=report.elapsed_s * pace) for report in reports]


# What is told


def _table(
    plan: Sequence[Configuration], measured: dict[Configuration, Figures], predicted: dict[Configuration, Figures]
) -> str:
    lines = [
        "| configuration | tokens/s | predicted | off by | latency s | predicted | off by | |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for each in plan:
        real, said = measured[each], predicted[each]
        lines.append(
            f"| {each.name} | {real.tokens_per_s:.1f} | {said.tokens_per_s:.1f} | "
            f"{said.tokens_per_s / real.tokens_per_s - 1.0:+.0%} | {real.mean_latency_s:.2f} | "
            f"{said.mean_latency_s:.2f} | {said.mean_latency_s / real.mean_latency_s - 1.0:+.0%} | "
            f"{'calibrates' if _is_calibration(each) else ''} |"
        )
    return "\n".join(lines)


def _write(
    out: Path,
    plan: Sequence[Configuration],
    measured: dict[Configuration, Figures],
    predicted: dict[Configuration, Figures],
    slowdown: MeasuredSlowdown,
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    plain = {
        "slowdown": [{"threads": own, "others": others, "times": slow} for (own, others), slow in slowdown.of.items()],
        "configurations": [
            {
                "mode": each.mode,
                "together": each.together,
                "calibrates": _is_calibration(each),
                "measured_tokens_per_s": measured[each].tokens_per_s,
                "predicted_tokens_per_s": predicted[each].tokens_per_s,
                "measured_latency_s": measured[each].mean_latency_s,
                "predicted_latency_s": predicted[each].mean_latency_s,
            }
            for each in plan
        ],
    }
    (out / "agreement.json").write_text(json.dumps(plain, indent=2), encoding="utf-8")
    picture, axes = figure(1, 2, title="Predicted against measured, on this machine")
    kinds: list[tuple[str, str, Callable[[Figures], float]]] = [
        ("Throughput", "tokens/s", lambda figures: figures.tokens_per_s),
        ("Latency", "mean seconds", lambda figures: figures.mean_latency_s),
    ]
    for axis, (title, unit, of) in zip(axes, kinds, strict=True):
        most = 1.1 * max(max(of(measured[each]), of(predicted[each])) for each in plan)
        line = np.linspace(0.0, most, 2)
        axis.plot(line, line, color="#555555", linewidth=1)
        axis.fill_between(line, (1 - _TOLERANCE) * line, (1 + _TOLERANCE) * line, color="#cfe3d6", label="within 15 %")
        for number, mode in enumerate(dict.fromkeys(each.mode for each in plan)):
            same = [each for each in plan if each.mode == mode]
            sizes = [40 + 25 * each.together for each in same]
            axis.scatter(
                [of(measured[each]) for each in same],
                [of(predicted[each]) for each in same],
                s=sizes,
                color=COLOURS[number % len(COLOURS)],
                alpha=0.85,
                label=mode,
            )
        axis.set(title=title, xlabel=f"measured, {unit}", ylabel=f"predicted, {unit}", xlim=(0, most), ylim=(0, most))
        axis.legend(frameon=False, loc="upper left")
    finish(picture, out / "agreement.png")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.simulator.agreement", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--target", required=True, metavar="DIR")
    parser.add_argument("--drafter", action="append", required=True, metavar="DIR", help="models; several times")
    parser.add_argument("--prompts", required=True, type=Path, metavar="FILE.jsonl")
    parser.add_argument("--trace", required=True, type=Path, metavar="FILE.npz", help="recorded on these prompts")
    parser.add_argument("--num-prompts", type=int, default=8, metavar="N")
    parser.add_argument("--mode", nargs="+", default=list(_MODES), metavar="MODE", help="with off and pearl")
    parser.add_argument("--together", type=int, nargs="+", default=list(_TOGETHER), metavar="N", help="with 1")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="turns that count (default 2)")
    parser.add_argument("--max-tokens", type=int, default=40, metavar="N")
    parser.add_argument("--max-draft", type=int, default=8, metavar="N")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, metavar="N", help="of the verifier")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--contention-s", type=float, default=3.0, metavar="S", help="of each measurement of company")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where JSON and picture go")
    return parser


if __name__ == "__main__":
    sys.exit(main())
