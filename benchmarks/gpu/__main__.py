"""Kernels, engine, Hugging Face, and a target beside a drafter on one GPU, in one table. Without a GPU it measures
nothing, and says so."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Iterable
from functools import partial

import torch

from benchmarks.gpu import engine, kernels, sharing
from benchmarks.gpu.ceilings import measure_ceilings
from benchmarks.gpu.table import HEADER, Row
from benchmarks.kernels.case import LARGE

__all__ = ["NOT_MEASURED", "main", "print_table"]

NOT_MEASURED = 3
"""The exit code where there is no GPU; a wrong result or a case that failed is 1."""


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
    print(f"reads {ceilings.bytes_per_s / 1e12:.2f} TB/s, multiplies {ceilings.flops_per_s / 1e12:.0f} TFLOP/s\n")
    tables = [kernels.rows(LARGE, "cuda", partial(kernels.timed, ceilings=ceilings))]
    if not options.kernels_only:
        tables.append(engine.rows(engine.LLAMA_8B, context=options.context, bytes_per_s=ceilings.bytes_per_s))
        tables.append(sharing.rows(engine.LLAMA_8B, context=options.context))
    complaints = print_table(row for rows in tables for row in rows)
    print("\n" + ("\n".join(f"WRONG: {complaint}" for complaint in complaints) or "all kernels are right"))
    return 1 if complaints else 0


def print_table(rows: Iterable[Row]) -> list[str]:
    """Each row as soon as it is there; returns what is wrong."""
    print(HEADER, flush=True)
    complaints = []
    for row in rows:
        print(row.markdown, flush=True)
        complaints += [row.complaint] if row.complaint is not None else []
    return complaints


if __name__ == "__main__":
    sys.exit(main())
