"""Weights of one byte: on the CPU, and on a GPU in the interpreter."""

from __future__ import annotations

import contextlib

import pytest
import torch

from kernels.quantised import QUANTISED_DTYPES, QuantisedLinear, quantise
from tests.kernels.gpu.interpreter import interpreter
from tests.kernels.rig import DTYPES, assert_close, dependent_rows, normal, same_bits

# Half a step of the rounding, of an output's largest weight: 127 steps, or three bits behind the point of each number.
STEP = {"int8": 0.5 / 127, "fp8": 2.0**-4}


def check(kind: str, dtype: torch.dtype, *, on_gpu: bool = True) -> None:
    """Exact for the weights as they were rounded; those within half a step of what they were."""
    weight, bias = normal(37, 83, seed=1, dtype=dtype), normal(37, seed=2)
    weight[5] = 0.0
    x = normal(3, 83, seed=0, dtype=dtype)
    with interpreter() if on_gpu else contextlib.nullcontext():
        layer = QuantisedLinear(weight, kind, bias)
        found = layer(x)
        assert same_bits(layer.add_to(x, found.clone()), found + found)
    numbers, scales = quantise(weight, kind)
    rounded = numbers.double() * scales.double()[:, None]
    sizes = x.double().abs() @ rounded.abs().T + bias.abs()
    assert_close(found, x.double() @ rounded.T + bias.double(), rtol=2.0**-22, atol=sizes * 2.0**-20)
    largest = weight.double().abs().amax(dim=1, keepdim=True)
    assert bool(((rounded - weight.double()).abs() <= STEP[kind] * largest * 1.001).all())


@pytest.mark.parametrize("on_gpu", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", QUANTISED_DTYPES)
def test_exact_for_the_rounded_weights(kind: str, dtype: torch.dtype, on_gpu: bool) -> None:
    check(kind, dtype, on_gpu=on_gpu)


@pytest.mark.parametrize("kind", QUANTISED_DTYPES)
@pytest.mark.parametrize("on_gpu", [True, False])
def test_rows_do_not_depend_on_their_neighbours(kind: str, on_gpu: bool) -> None:
    with interpreter() if on_gpu else contextlib.nullcontext():
        layer = QuantisedLinear(normal(33, 70, seed=1, dtype=torch.bfloat16), kind)
        x = normal(5, 70, seed=0, dtype=torch.bfloat16)
        assert dependent_rows(layer, x, 0, num_groups=2) == []


def test_half_the_bytes_of_bfloat16_where_the_bytes_are_read() -> None:
    weight = torch.ones(256, 1024, dtype=torch.bfloat16)
    with interpreter():
        assert QuantisedLinear(weight, "int8").num_bytes < 0.51 * 256 * 1024 * 2
    assert QuantisedLinear(weight, "int8").num_bytes >= 256 * 1024 * 2


def test_what_cannot_be_quantised_is_refused() -> None:
    with pytest.raises(ValueError, match="to int8 or fp8, not to 'int4'"):
        QuantisedLinear(torch.ones(2, 2), "int4")
    with pytest.raises(ValueError, match=r"got torch.int8 \(2, 2\)"):
        QuantisedLinear(torch.ones(2, 2, dtype=torch.int8), "int8")
    with pytest.raises(ValueError, match=r"x must be float32 \[rows, 2\], got torch.float32 \(1, 3\)"):
        QuantisedLinear(torch.ones(2, 2), "int8")(torch.ones(1, 3))
