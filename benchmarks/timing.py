"""Small helpers for measuring in one process: medians of many runs, and the machine they were made on."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from kernels.native.memory import large_empty

__all__ = ["describe_machine", "interleaved", "memory_bytes_per_s", "ratio"]


def interleaved(
    variants: dict[str, Callable[[], float]], *, num_rounds: int, num_warmups: int = 2
) -> dict[str, list[float]]:
    """Seconds of each variant, taken in turn round by round, so that a machine that slows down slows all of them."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for index in range(num_warmups + num_rounds):
        for name, run in variants.items():
            elapsed_s = run()
            if index >= num_warmups:
                times[name].append(elapsed_s)
    return times


def memory_bytes_per_s(*, num_rounds: int = 7) -> float:
    """How fast this process reads memory: the best of several sums over a tensor far larger than any cache."""
    numbers = large_empty((1 << 28,), torch.float32).fill_(1.0)
    best_s = float("inf")
    for _ in range(num_rounds):
        started_s = time.perf_counter()
        numbers.sum()
        best_s = min(best_s, time.perf_counter() - started_s)
    return numbers.numel() * 4 / best_s


def ratio(first: list[float], second: list[float]) -> str:
    """median (lower to upper quartile) of first / second, pair by pair."""
    ratios = [a / b for a, b in zip(first, second, strict=True)]
    lower, median, upper = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"{median:.2f} ({lower:.2f} to {upper:.2f})"


def describe_machine() -> str:
    """Processor, cores and versions, in one line."""
    names = [line.split(":", 1)[1].strip() for line in _processor_lines() if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    return f"{processor}, {len(names) or 1} cores, Python {platform.python_version()}, torch {torch.__version__}"


def _processor_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
