"""Generates text for a file of prompts on this machine alone: `python -m benchmarks.local --help`.

    python -m benchmarks.local --target DIR --prompts FILE.jsonl --max-tokens 64

Prompts are records {"id", "prompt"}, one a line. With --json the results go to a file:
{"results": [{"id", "token_ids", "text", "num_rounds", "elapsed_s"}], "steps": {...}}.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.generation import Generated, StepStatistics, generate, read_prompts
from contracts.config import EngineConfig
from contracts.errors import SpecfleetError
from contracts.types import SamplingParams, StopParams
from engine.local_group import local_engine

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 when all prompts were answered, 2 for a request that can never work."""
    options = _parser().parse_args(arguments)
    try:
        prompts = read_prompts(options.prompts)
        sampling = SamplingParams(temperature=options.temperature, seed=options.seed)
        stop = StopParams(max_tokens=options.max_tokens, ignore_eos=options.ignore_eos)
        config = EngineConfig(
            model=options.target,
            dtype=options.dtype,
            num_threads=min(max(1, options.threads // options.tp), os.cpu_count() or 1),
            tensor_parallel=options.tp,
        )
        with local_engine(config) as loaded:
            started_s = time.perf_counter()
            results, steps = generate(loaded, prompts, sampling, stop, num_together=options.batch)
            elapsed_s = time.perf_counter() - started_s
    except SpecfleetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json is not None:
        _write(options.json, results, steps)
    _print_summary(results, steps, elapsed_s)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.local", description="Generate for a file of prompts with one engine and no network."
    )
    parser.add_argument("--target", required=True, metavar="DIR", help="checkpoint folder or hub id of the model")
    parser.add_argument("--prompts", required=True, type=Path, metavar="FILE.jsonl", help='records {"id", "prompt"}')
    parser.add_argument("--mode", choices=["off"], default="off", help="off: plain decoding")
    parser.add_argument("--max-tokens", type=_positive, default=64, metavar="N", help="tokens per prompt (default 64)")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 is greedy (default)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of every prompt's noise (default 0)")
    parser.add_argument(
        "--threads", type=_positive, default=os.cpu_count() or 1, metavar="N", help="CPU threads over all ranks"
    )
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--tp", type=_positive, default=1, metavar="N", help="tensor-parallel ranks (default 1)")
    parser.add_argument("--batch", type=_positive, default=1, metavar="N", help="prompts at a time (default 1)")
    parser.add_argument("--ignore-eos", action="store_true", help="go on to --max-tokens past the model's end token")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write token ids, texts and step times here")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _write(path: Path, results: list[Generated], steps: StepStatistics) -> None:
    content: dict[str, Any] = {"results": [dataclasses.asdict(r) for r in results], "steps": steps.summary()}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _print_summary(results: list[Generated], steps: StepStatistics, elapsed_s: float) -> None:
    for result in results:
        print(f"--- {result.id} ({len(result.token_ids)} tokens, {result.elapsed_s:.3f} s)\n{result.text}")
    num_tokens, num_rounds = sum(len(r.token_ids) for r in results), sum(r.num_rounds for r in results)
    summary = steps.summary()
    print(
        f"\n{len(results)} prompts, {num_tokens} tokens in {elapsed_s:.2f} s: {num_tokens / elapsed_s:.1f} tokens/s, "
        f"{num_tokens / num_rounds:.2f} tokens a round, {summary['num_steps']} steps, "
        f"{1e3 * summary['elapsed_s'] / summary['num_steps']:.2f} ms a step"
    )


if __name__ == "__main__":
    sys.exit(main())
