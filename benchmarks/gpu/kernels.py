"""Every kernel: its error against float64, whether a row has the same bits alone, and its time beside its floor."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from benchmarks.gpu.ceilings import Ceilings, cache_bytes, num_copies, seconds_captured
from benchmarks.gpu.table import Row, failed
from benchmarks.kernels.case import GpuCase, Sizes

__all__ = ["KERNELS", "Checked", "Timed", "check", "row_of", "rows", "timed"]

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


def rows(sizes: Sizes, device: str, measure: Callable[[str, GpuCase], Timed]) -> Iterator[Row]:
    """All cases of all kernels, one at a time, for each takes memory."""
    for kernel in KERNELS:
        cases = importlib.import_module(f"benchmarks.kernels.{kernel}").gpu_cases(sizes, device)
        name = "inputs"
        try:
            with torch.inference_mode():
                for case in cases:
                    name = case.name
                    yield _measured(kernel, case, measure)
                    name = f"inputs after {case.name}"
        except Exception as error:  # noqa: BLE001  # whatever happens to one kernel, the others are measured
            yield failed(kernel, name, error)


def _measured(kernel: str, case: GpuCase, measure: Callable[[str, GpuCase], Timed]) -> Row:
    try:
        return row_of(measure(kernel, case))
    except Exception as error:  # noqa: BLE001  # the same for one input
        return failed(kernel, case.name, error)


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


def timed(kernel: str, case: GpuCase, *, ceilings: Ceilings) -> Timed:
    """Checked first, then timed on inputs that no cache holds."""
    checked = check(kernel, case)
    runs = [case.run, *(case.again() for _ in range(num_copies(case.num_bytes, cache_bytes()) - 1))]
    return Timed(
        checked=checked,
        elapsed_s=seconds_captured(runs),
        floor_s=ceilings.floor_s(case.num_bytes, case.num_flops),
    )


def row_of(x: Timed) -> Row:
    """Its line, and a complaint where it is wrong."""
    checked = x.checked
    alone = {None: "", True: "same bits", False: "OTHER BITS"}[checked.same_alone]
    complaint = (
        f"{checked.kernel}, {checked.name}: error {checked.error:.2e} of at most {checked.most_error:.2e}, "
        f"bits alone {'differ' if checked.same_alone is False else 'equal'}"
    )
    return Row(
        part=checked.kernel,
        name=checked.name,
        error=f"{checked.error:.1e}",
        allowed=f"{checked.most_error:.1e}",
        alone=alone,
        elapsed_s=x.elapsed_s,
        floor_s=x.floor_s,
        complaint=None if checked.is_right else complaint,
    )
