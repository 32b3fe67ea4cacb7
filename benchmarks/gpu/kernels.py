"""Every kernel: its error against float64, whether a row has the same bits alone, and its time beside its floor."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from benchmarks.gpu.ceilings import Ceilings, seconds_called, seconds_captured
from benchmarks.kernels.case import GpuCase, Sizes

__all__ = ["KERNELS", "Checked", "Timed", "cases", "check", "failures", "table", "timed"]

KERNELS = ("attention", "linear", "norm", "rotary", "swiglu", "noise", "pick", "paged", "pruning", "quantised")


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """What a kernel's result is worth."""

    kernel: str
    name: str
    error: float
    most_error: float
    same_alone: bool | None
    """None where that is not promised."""

    @property
    def is_right(self) -> bool:
        return self.error <= self.most_error and self.same_alone is not False  # NaN is not


@dataclass(frozen=True, kw_only=True, slots=True)
class Timed:
    """And what it costs."""

    checked: Checked
    elapsed_s: float
    floor_s: float


def cases(sizes: Sizes, device: str) -> Iterator[tuple[str, GpuCase]]:
    """All of them, one at a time, for each takes memory."""
    for kernel in KERNELS:
        for case in importlib.import_module(f"benchmarks.kernels.{kernel}").gpu_cases(sizes, device):
            yield kernel, case


def check(kernel: str, case: GpuCase) -> Checked:
    """Compares with float64, and the last row with itself alone."""
    exact, found = case.exact(), case.found()
    error = _relative_error(found.double(), exact)
    same = None
    if case.alone is not None:
        last, alone = found[-1].contiguous(), case.alone()[-1].contiguous()
        same = torch.equal(last.view(torch.uint8), alone.view(torch.uint8))  # bits, so that NaN equals itself
    return Checked(kernel=kernel, name=case.name, error=error, most_error=case.most_error, same_alone=same)


def _relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    if torch.equal(found, exact):
        return 0.0
    return float((found - exact).norm() / exact.norm())


def timed(kernel: str, case: GpuCase, ceilings: Ceilings) -> Timed:
    """Checked first, then timed."""
    checked = check(kernel, case)
    return Timed(
        checked=checked,
        elapsed_s=(seconds_captured if case.is_captured else seconds_called)(case.run),
        floor_s=ceilings.floor_s(case.num_bytes, case.num_flops),
    )


def failures(results: list[Checked]) -> list[str]:
    """What is wrong, a line each."""
    return [
        f"{x.kernel}, {x.name}: error {x.error:.2e} of at most {x.most_error:.2e}, "
        f"bits alone {'differ' if x.same_alone is False else 'equal'}"
        for x in results
        if not x.is_right
    ]


def table(results: list[Timed]) -> str:
    """Markdown."""
    lines = [
        "| kernel | input | error | allowed | row alone | us | floor us | share |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for x in results:
        alone = {None: "", True: "same bits", False: "OTHER BITS"}[x.checked.same_alone]
        lines.append(
            f"| {x.checked.kernel} | {x.checked.name} | {x.checked.error:.1e} | {x.checked.most_error:.1e} | {alone} "
            f"| {1e6 * x.elapsed_s:.1f} | {1e6 * x.floor_s:.1f} | {x.floor_s / x.elapsed_s:.0%} |"
        )
    return "\n".join(lines)
