"""What this GPU can do at best, measured: how fast it moves bytes and multiplies matrices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

__all__ = ["Ceilings", "measure_ceilings", "seconds_called", "seconds_captured"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ceilings:
    """Rates of one GPU."""

    bytes_per_s: float
    flops_per_s: float

    def floor_s(self, num_bytes: int, num_flops: int) -> float:
        """No program that moves so many bytes and does so many operations takes less."""
        return max(num_bytes / self.bytes_per_s, num_flops / self.flops_per_s)


def measure_ceilings() -> Ceilings:
    """A large copy, counting bytes read and written; a large product of random bfloat16 matrices."""
    source = torch.randn(1 << 28, device="cuda")
    target = torch.empty_like(source)
    left, right = (torch.randn(8192, 8192, device="cuda").bfloat16() for _ in range(2))
    return Ceilings(
        bytes_per_s=2 * source.numel() * 4 / seconds_called(lambda: target.copy_(source)),
        flops_per_s=2 * 8192**3 / seconds_called(lambda: left @ right),
    )


def seconds_called(run: Callable[[], object]) -> float:
    """Median seconds between events around a call, launches included."""
    import triton.testing

    return 1e-3 * float(triton.testing.do_bench(run, return_mode="median"))


def seconds_captured(run: Callable[[], object]) -> float:
    """Median seconds of a call as part of a captured graph: what it takes where launches cost nothing."""
    import triton.testing

    with torch.cuda.stream(torch.cuda.Stream()):  # type: ignore[no-untyped-call]
        return 1e-3 * float(triton.testing.do_bench_cudagraph(run, return_mode="median"))
