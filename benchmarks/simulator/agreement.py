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
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
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
    num_drafts: int
    router_s: float
    """CPU time of this process: the router and the client."""
    rounds: Sequence[tuple[int, float]]
    """Rows of each round at the verifier, and how long it took."""
    between_s: float
    """Median time from the end of a round to the beginning of the next."""

    @property
    def num_rounds(self) -> int:
        return len(self.rounds)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where a configuration is off by more than the tolerance, 2 for what can never work."""
    options = _parser().parse_args(arguments)
    try:
        plan = [Configuration(mode=mode, together=together) for together in options.together for mode in options.mode]
        for configuration in plan:
            mode_parts(configuration.mode)
        if missing := {"off", "pearl"} - {each.mode for each in plan if _is_calibration(each)}:
            raise InvalidArgument(f"{' and '.join(sorted(missing))} at 1 is left out, which calibrates all the others")
        trace = read_trace(options.trace)
        prompts = read_prompts(options.prompts)[: options.num_prompts]
        requests = _requests(trace, len(prompts), options)
        slowdown = _slowdown(options)
        turns = asyncio.run(_measure(options, prompts, plan))
    except SpecfleetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    measured = {configuration: _median([real.figures for real in of]) for configuration, of in turns.items()}
    calibration = {configuration.mode: of for configuration, of in turns.items() if _is_calibration(configuration)}
    predicted = _predict(trace, requests, plan, calibration, slowdown, options)
    print(_table(plan, measured, predicted))
    if options.out is not None:
        _write(options.out, plan, measured, predicted, slowdown)
    counted = [c for c in plan if not _is_calibration(c)]
    errors = [_error(predicted[c], measured[c]) for c in counted]
    is_near = [error <= _TOLERANCE for error in errors]
    print(f"\n{sum(is_near)} of {len(is_near)} within {_TOLERANCE:.0%} of both")
    return 0 if all(is_near) else 1


def _error(said: Figures, real: Figures) -> float:
    """The larger of the two, as parts of what is real."""
    throughput, latency = said.tokens_per_s / real.tokens_per_s, said.mean_latency_s / real.mean_latency_s
    return max(abs(throughput - 1.0), abs(latency - 1.0))


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
) -> dict[Configuration, list[_Real]]:
    """The turns of every configuration after its first."""
    limits = FrontLimits(max_draft=options.max_draft, max_waiting=4096)
    turns: dict[Configuration, list[_Real]] = {}
    async with measured_fleet(
        target=options.target,
        drafters=options.drafter,
        limits=limits,
        dtype=options.dtype,
        threads=options.threads,
        prefix_cache=False,  # every turn asks the same prompts, and simulated verifiers read them each time
    ) as fleet:
        for configuration in _order(plan, options.rounds):
            fleet.use(configuration.mode)
            real = await _turn(fleet, prompts, configuration, options.max_tokens)
            turns.setdefault(configuration, []).append(real)
            print(f"{configuration.name}: {real.figures.tokens_per_s:.1f} tokens/s", file=sys.stderr, flush=True)
    return {configuration: of[1:] for configuration, of in turns.items()}


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
    cpu_s, began_s = time.process_time(), time.perf_counter()
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
    rounds = sorted((span.began_s, span.ended_s, span.num_rows) for span in spans if span.name == "verify")
    return _Real(
        figures=Figures(
            tokens_per_s=sum(num for num, _ in said) / elapsed_s,
            mean_latency_s=statistics.fmean(latency_s for _, latency_s in said),
        ),
        num_drafts=sum(span.name == "draft" for span in spans),
        router_s=router_s,
        rounds=[(num_rows, ended_s - began_s) for began_s, ended_s, num_rows in rounds],
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
    calibration: Mapping[str, Sequence[_Real]],
    slowdown: MeasuredSlowdown,
    options: argparse.Namespace,
) -> dict[Configuration, Figures]:
    plain, drafting = calibration["off"], calibration["pearl"]
    router_s = sum(real.router_s for real in plain) / sum(real.num_rounds for real in plain)
    messages_s = sum(real.router_s - router_s * real.num_rounds for real in drafting)
    message_s = max(messages_s, 0.0) / max(sum(real.num_drafts for real in drafting), 1)
    # The machine may be slower or faster now than when steps were timed, those of prompts among them.
    context = statistics.fmean(len(request.prompt) + len(request.answer) / 2 for request in requests)
    timed = measured_cost(trace.step_reports[None])
    rounds = [of for real in plain for of in real.rounds]
    pace = sum(took_s for _, took_s in rounds) / sum(timed.cost_s(rows, rows * context) for rows, _ in rounds)
    fleet = SimulatedFleet(
        RecordedSpeech(trace),
        VerifierMachine(
            cost=measured_cost(_paced(trace.step_reports[None], pace)),
            link_s=_LOOPBACK_S,
            handling_s=statistics.median(real.between_s for real in plain),
            num_threads=options.threads,
        ),
        [_drafter(DrafterId(name_of(folder)), trace, pace) for folder in options.drafter],
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


def _drafter(name: DrafterId, trace: Trace, pace: float) -> DrafterMachine:
    cost = measured_cost(_paced(trace.step_reports[name], pace))
    at_once = max(report.num_rows for report in trace.step_reports[name])
    return DrafterMachine(
        drafter=name,
        cost=cost,
        link_s=_LOOPBACK_S,
        prefill_s_per_token=cost.cost_s(at_once, at_once * at_once / 2) / at_once,
    )


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
