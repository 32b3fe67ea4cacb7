"""Kernels, engine and Hugging Face on one GPU, as tables. Without a GPU it measures nothing, and says so."""

from __future__ import annotations

import argparse
import platform
import sys

import torch

from benchmarks.gpu import engine, kernels
from benchmarks.gpu.ceilings import measure_ceilings
from benchmarks.kernels.case import LARGE

__all__ = ["NOT_MEASURED", "main"]

NOT_MEASURED = 3
"""The exit code where there is no GPU; a wrong result is 1."""


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--context", type=int, default=1024, help="tokens of each sequence (default 1024)")
    parser.add_argument("--kernels-only", action="store_true", help="leave the engine and Hugging Face out")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print(f"not measured: torch {torch.__version__} sees no GPU on this machine ({platform.machine()})")
        return NOT_MEASURED
    ceilings = measure_ceilings()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    print(f"copies {ceilings.bytes_per_s / 1e12:.2f} TB/s, multiplies {ceilings.flops_per_s / 1e12:.0f} TFLOP/s\n")
    with torch.inference_mode():
        results = [kernels.timed(kernel, case, ceilings) for kernel, case in kernels.cases(LARGE, "cuda")]
    print(kernels.table(results) + "\n", flush=True)
    if not options.kernels_only:
        print(_engine_table(options.context, ceilings.bytes_per_s) + "\n")
    wrong = kernels.failures([result.checked for result in results])
    print("\n".join(f"WRONG: {line}" for line in wrong) or "all kernels are right")
    return 1 if wrong else 0


def _engine_table(context: int, bytes_per_s: float) -> str:
    shape, counts = engine.LLAMA_8B, engine.SEQUENCE_COUNTS
    ours = engine.random_engine(shape, device="cuda", num_sequences=max(counts), context=context)
    results = [engine.measure(ours, num_sequences=count, context=context) for count in counts]
    del ours  # both models at once would not fit on a smaller GPU
    torch.cuda.empty_cache()
    theirs = {}
    for count in counts:
        theirs[count] = engine.measure_transformers(shape, device="cuda", num_sequences=count, context=context)
        torch.cuda.empty_cache()
    return engine.table(results, theirs, bytes_per_s)


if __name__ == "__main__":
    sys.exit(main())
