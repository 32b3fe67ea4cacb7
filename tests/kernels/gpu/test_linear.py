"""Matrix products on a GPU, in the interpreter: right, and rows by themselves."""

from __future__ import annotations

import pytest
import torch

from kernels.linear import Linear
from tests.kernels.gpu.interpreter import interpreter
from tests.kernels.rig import DTYPES, assert_close, dependent_rows, normal, same_bits, with_bad_row


def check(rows: int, inner: int, outputs: int, dtype: torch.dtype) -> None:
    """Products of bfloat16 are exact in float32; what rounds is the sum: some units of 2^-24 of what it adds up."""
    weight, bias = normal(outputs, inner, seed=1, dtype=dtype), normal(outputs, seed=2)
    x, before = normal(rows, inner, seed=0, dtype=dtype), normal(rows, outputs, seed=3)
    with interpreter():
        layer = Linear(weight, bias)
        found, added = layer(x), layer.add_to(x, before.clone())
    exact = x.double() @ weight.double().T + bias.double()
    sizes = x.double().abs() @ weight.double().abs().T + bias.abs() + before.abs()
    for y, expected in ((found, exact), (added, exact + before)):
        assert y.dtype == torch.float32
        assert_close(y, expected, rtol=2.0**-23, atol=sizes * 2.0**-20)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "inner", "outputs"), [(1, 1, 1), (3, 83, 37), (65, 130, 33), (2, 64, 64)])
def test_exact_up_to_the_order_of_sums(rows: int, inner: int, outputs: int, dtype: torch.dtype) -> None:
    check(rows, inner, outputs, dtype)


def test_many_outputs_go_in_wider_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    from kernels.gpu import linear as module

    monkeypatch.setattr(module, "_MANY_OUTPUTS", 100)
    check(2, 70, 130, torch.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_do_not_depend_on_their_neighbours(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, among others, in other places, and across the end of a tile of rows."""
    from kernels.gpu import linear as module

    monkeypatch.setattr(module, "_TILE_ROWS", 16)
    x = normal(18, 70, seed=0, dtype=dtype)
    with interpreter():
        layer = Linear(normal(33, 70, seed=1, dtype=dtype))
        assert dependent_rows(layer, x, 0, num_groups=2) == []
        clean, dirty = layer(x[:3]), layer(with_bad_row(x[:3], 1))
    assert same_bits(clean[[0, 2]], dirty[[0, 2]])
    assert dirty[1].isnan().all()
