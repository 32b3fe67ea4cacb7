"""What this GPU can do at best, measured: how fast it reads memory and multiplies. And how a kernel is timed."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

__all__ = ["Ceilings", "cache_bytes", "measure_ceilings", "num_copies", "seconds_called", "seconds_captured"]

_LEAST_RUNS = 32
"""Of one captured graph, so that its start does not matter."""
_NUM_REPLAYS = 11


@dataclass(frozen=True, kw_only=True, slots=True)
class Ceilings:
    """Rates of one GPU."""

    bytes_per_s: float
    flops_per_s: float

    def floor_s(self, num_bytes: int, num_flops: int) -> float:
        """No program that moves so many bytes and does so many operations takes less."""
        return max(num_bytes / self.bytes_per_s, num_flops / self.flops_per_s)


def measure_ceilings() -> Ceilings:
    """Sums over a tensor far larger than any cache; a large product of random bfloat16 matrices.

    Reading alone, for copies pay for turning from reads to writes: a floor from them would be too easy to reach. Of
    several ways to read the fastest.
    """
    numbers = torch.randn(1 << 29, device="cuda")
    read_s = min(seconds_called(read) for read in (numbers.sum, numbers.amax, numbers.view(1024, -1).sum))
    left, right = (torch.randn(8192, 8192, device="cuda").bfloat16() for _ in range(2))
    return Ceilings(
        bytes_per_s=numbers.numel() * 4 / read_s,
        flops_per_s=2 * 8192**3 / seconds_called(lambda: left @ right),
    )


def seconds_called(run: Callable[[], object]) -> float:
    """Median seconds between events around a call, its inputs not in the cache."""
    import triton.testing

    return 1e-3 * float(triton.testing.do_bench(run, return_mode="median"))


def cache_bytes() -> int:
    """Of the GPU's second-level cache."""
    return int(torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size)


def num_copies(num_bytes: int, num_cache_bytes: int) -> int:
    """Of an input of so many bytes: between two runs on the same copy lie twice as many others as the cache holds.

    >>> num_copies(30, 50), num_copies(1000, 50)
    (5, 2)
    """
    return 1 + -(-2 * num_cache_bytes // max(num_bytes, 1))


def seconds_captured(runs: Sequence[Callable[[], object]]) -> float:
    """Median seconds of a run within a captured graph of all of them in turn: what it takes where launches cost
    nothing."""
    for run in runs:
        run()
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    num_passes = -(-_LEAST_RUNS // len(runs))
    with torch.cuda.graph(graph):
        for _ in range(num_passes):
            held = [run() for run in runs]  # each result in a place of its own, as inputs are
    times_s = list[float]()
    for _ in range(1 + _NUM_REPLAYS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times_s.append(1e-3 * start.elapsed_time(end) / (num_passes * len(held)))
    return statistics.median(times_s[1:])
