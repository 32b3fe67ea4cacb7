"""The table of all kernels: microseconds of the fast form and of the reference, measured in turn."""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable

import torch

from benchmarks.kernels.case import Case
from benchmarks.timing import describe_machine, interleaved
from kernels import native

KERNELS = ("linear", "attention", "rotary", "norm", "swiglu", "noise", "pick", "paged", "pruning", "quantised")
LEAST_S = 2e-3  # each sample repeats its call until about this long, so that the clock's grain does not matter


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("kernels", nargs="*", choices=[*KERNELS, []], help=f"of {', '.join(KERNELS)} (default: all)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{describe_machine()}, {options.threads} threads\n")
    print("| kernel | input | us | reference us | ratio | GB/s |\n|---|---|---|---|---|---|")
    with torch.inference_mode(), native.use_threads(options.threads):
        for name in options.kernels or KERNELS:
            for case in importlib.import_module(f"benchmarks.kernels.{name}").cases():
                print(_row(name, case), flush=True)
    return 0


def _row(name: str, case: Case) -> str:
    times = interleaved({"fast": _sample(case.fast), "reference": _sample(case.reference)}, num_rounds=9)
    fast, reference = (statistics.median(times[form]) for form in ("fast", "reference"))
    speed = f"{case.num_bytes / fast / 1e9:.1f}" if case.num_bytes else ""
    return f"| {name} | {case.name} | {1e6 * fast:.1f} | {1e6 * reference:.1f} | {reference / fast:.1f} | {speed} |"


def _sample(call: Callable[[], object]) -> Callable[[], float]:
    started_s = time.perf_counter()
    call()
    num_calls = max(1, int(LEAST_S / (time.perf_counter() - started_s)))

    def run() -> float:
        started_s = time.perf_counter()
        for _ in range(num_calls):
            call()
        return (time.perf_counter() - started_s) / num_calls

    return run


if __name__ == "__main__":
    sys.exit(main())
