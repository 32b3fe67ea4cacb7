"""Records what policies are measured on: `python -m benchmarks.record_traces --help`.

    python -m benchmarks.record_traces --target DIR --drafter DIR2 --drafter DIR3 --prompts FILE.jsonl --out FILE.npz

Prompts are records {"id", "domain", "messages"} or {"id", "domain", "prompt"}, one a line. What the file holds, and why
one recording serves all policies, is told in `benchmarks/traces/trace.py`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.drafters import load_drafter_engine, load_drafters
from benchmarks.generation import read_prompts
from benchmarks.timing import describe_machine
from benchmarks.traces.recording import answered, read_along
from benchmarks.traces.trace import Trace, TreeTable, write_trace
from contracts.config import EngineConfig
from contracts.errors import SpecfleetError
from contracts.types import DrafterId, StepReport
from engine.load import LoadedEngine, load_engine
from speculation.cost import probe_plan
from workers.drafters.registry import KINDS
from workers.probe import probe_steps

__all__ = ["main"]

_PROBED_ROWS, _PROBED_KEYS = 512, 256
_PROBED_DRAFT_ROWS = 64
_PROBE_TIMES = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 when the trace is written, 2 for a request that can never work."""
    options = _parser().parse_args(arguments)
    try:
        trace = _record(options)
        write_trace(options.out, trace)
    except SpecfleetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    num_places = sum(len(request.answer) for request in trace.requests)
    print(f"{len(trace.requests)} requests, {num_places} tokens, {options.out.stat().st_size / 1e6:.2f} MB")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.record_traces", description="Record what drafters would propose, for replays."
    )
    parser.add_argument("--target", required=True, metavar="DIR", help="checkpoint folder or hub id of the target")
    parser.add_argument(
        "--drafter", action="append", required=True, metavar="KIND_OR_DIR", help="can be given several times"
    )
    parser.add_argument("--prompts", required=True, type=Path, metavar="FILE.jsonl")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.npz")
    parser.add_argument(
        "--temperature", action="append", type=float, metavar="T", help="can be given several times (0 and 0.8)"
    )
    parser.add_argument("--seed", type=int, default=1000, metavar="S", help="of the first request (default 1000)")
    parser.add_argument("--max-tokens", type=int, default=32, metavar="N", help="of an answer (default 32)")
    parser.add_argument("--nodes", type=int, default=12, metavar="N", help="of a draft tree (default 12)")
    parser.add_argument("--depth", type=int, default=8, metavar="N", help="of a draft tree (default 8)")
    parser.add_argument(
        "--time-target", metavar="DIR", help="whose steps to time (--target); an inflated target says the same"
    )
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="CPU threads (default 2)")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    return parser


def _record(options: argparse.Namespace) -> Trace:
    target = _load(options.target, options)
    requests = tuple(
        answered(
            target,
            read_prompts(options.prompts),
            temperatures=options.temperature or [0.0, 0.8],
            seed=options.seed,
            max_tokens=options.max_tokens,
        )
    )
    drafters = load_drafters(options.drafter, target, num_threads=options.threads)
    num_places = sum(len(request.answer) for request in requests)
    trees = TreeTable.empty(num_nodes=options.nodes, num_drafters=len(drafters), num_places=num_places)
    reports: dict[DrafterId | None, tuple[StepReport, ...]] = {}
    for of, (name, argument) in enumerate(zip(drafters, options.drafter, strict=True)):
        print(f"{name}: {num_places} places", file=sys.stderr)
        asked = read_along(drafters[name], of, requests, trees, num_nodes=options.nodes, max_depth=options.depth)
        reports[name] = tuple(asked) if argument in KINDS else _drafting_steps(argument, target, options)
    timed = _load(options.time_target, options) if options.time_target else target
    reports[None] = tuple(_target_steps(timed))
    return Trace(
        drafters=tuple(drafters),
        requests=requests,
        trees=trees,
        step_reports=reports,
        notes={
            "target": target.engine.identity.name,
            "timed": timed.engine.identity.name,
            "machine": describe_machine(),
        },
    )


def _load(folder: str, options: argparse.Namespace) -> LoadedEngine:
    return load_engine(EngineConfig(model=folder, dtype=options.dtype, num_threads=options.threads))


def _target_steps(timed: LoadedEngine) -> Iterator[StepReport]:
    """The whole plan several times over: a machine that is slow for a while is slow for all sizes."""
    plan = probe_plan(min(_PROBED_ROWS, timed.engine.limits.max_batch_rows), _PROBED_KEYS)
    for _ in range(_PROBE_TIMES):
        yield from probe_steps(timed.engine, plan, num_times=1)


def _drafting_steps(folder: str, target: LoadedEngine, options: argparse.Namespace) -> tuple[StepReport, ...]:
    """One row for each sequence of a batch, on one thread, as a drafter beside others has it."""
    engine = load_drafter_engine(folder, target, num_threads=1).engine
    steps = probe_steps(engine, probe_plan(_PROBED_DRAFT_ROWS, _PROBED_KEYS), num_times=_PROBE_TIMES)
    return tuple(
        StepReport(
            num_rows=step.num_rows, num_context=step.num_context, num_sequences=step.num_rows, elapsed_s=step.elapsed_s
        )
        for step in steps
    )


if __name__ == "__main__":
    sys.exit(main())
