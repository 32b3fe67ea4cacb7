"""silu(gate) * up on a GPU, in the interpreter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from kernels.swiglu import swiglu
from tests.kernels.gpu.interpreter import interpreter
from tests.kernels.rig import DTYPES, ROUNDING, assert_close, dependent_rows, normal


def check(rows: int, size: int, dtype: torch.dtype, scale: float = 1.0) -> None:
    """Float32 throughout: an exponential, a division, two products."""
    gate_up = normal(rows, 2 * size, seed=size) * scale
    with interpreter():
        found = swiglu(gate_up, dtype)
    gate, up = gate_up.double().chunk(2, dim=-1)
    assert found.dtype == dtype
    assert_close(found, F.silu(gate) * up, rtol=2e-6 + ROUNDING[dtype], atol=1e-30)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")  # to infinity, whose inverse is 0
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "size", "scale"), [(1, 1, 1.0), (3, 77, 30.0), (2, 1025, 1.0)])
def test_exact_up_to_rounding(rows: int, size: int, scale: float, dtype: torch.dtype) -> None:
    check(rows, size, dtype, scale)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_do_not_depend_on_their_neighbours(dtype: torch.dtype) -> None:
    with interpreter():
        x = normal(5, 66, seed=0)
        assert dependent_rows(lambda some: swiglu(some, dtype), x, 0, num_groups=2) == []


def test_shapes_and_types_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="even number of columns, gate and up; got 7"):
        swiglu(normal(2, 7, seed=0), torch.float32)
