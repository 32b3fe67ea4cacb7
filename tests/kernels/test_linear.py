"""Linear layers: right, and each row by itself."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kernels import native
from kernels.linear import Linear, embed_reference, linear_reference
from tests.kernels.rig import DTYPES, FORMS, dependent_rows, form, normal, require_library, same_bits, with_bad_row

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 130), st.integers(1, 300))  # rows, outputs, inner


def exact_and_bound(
    x: torch.Tensor,  # [rows, inner]
    weight: torch.Tensor,  # [outputs, inner]
    bias: torch.Tensor,  # [outputs]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The result in float64, and how far a float32 sum may be from it.

    A sum of n terms errs by at most n half-units of the sum of magnitudes, and by about the square root of n in
    practice; one term too few or too many is off by a whole 1/n of it.
    """
    exact = x.double() @ weight.double().T + bias.double()
    magnitude = x.double().abs() @ weight.double().abs().T + bias.double().abs()
    return exact, magnitude * 2.0**-24 * (4 + 2 * x.shape[1] ** 0.5)


@settings(max_examples=40)
@given(shape=SHAPES, dtype=st.sampled_from(DTYPES), seed=st.integers(0, 2**30), scale=st.sampled_from([1e-6, 1.0, 1e6]))
@example(shape=(1, 1, 1), dtype=torch.float32, seed=0, scale=1.0)
@example(shape=(9, 33, 17), dtype=torch.bfloat16, seed=0, scale=1.0)
@example(shape=(17, 65, 1100), dtype=torch.bfloat16, seed=0, scale=1.0)
def test_within_a_float32_sum_of_the_exact_result(
    shape: tuple[int, int, int], dtype: torch.dtype, seed: int, scale: float
) -> None:
    require_library()
    rows, outputs, inner = shape
    x = (normal(rows, inner, seed=seed) * scale).to(dtype)
    weight, bias = normal(outputs, inner, seed=seed + 1, dtype=dtype), normal(outputs, seed=seed + 2) * scale
    layer = Linear(weight, bias)
    assert (layer.packed is not None) == (dtype == torch.float32 or inner % 2 == 0)
    y = layer(x)
    exact, bound = exact_and_bound(x, weight, bias)
    # Where the weights could not be packed, torch rounds the product to bfloat16.
    rounding = 0.0 if layer.packed is not None else 2.0**-8
    assert y.dtype == torch.float32
    assert bool(((y.double() - exact).abs() <= bound + rounding * (exact - bias.double()).abs()).all())
    reference = linear_reference(x, weight, bias).double()
    rounding = 2.0**-8 if dtype == torch.bfloat16 else 0.0
    assert bool(((y.double() - reference).abs() <= 2 * bound + rounding * (exact - bias.double()).abs()).all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 7, 8, 9, 17])
def test_small_whole_numbers_are_exact(rows: int, dtype: torch.dtype) -> None:
    """Every product and sum fits float32 exactly: one wrong lane, element or output shows."""
    generator = torch.Generator().manual_seed(rows)
    x = torch.randint(-8, 9, (rows, 94), generator=generator).to(dtype)
    weight = torch.randint(-8, 9, (75, 94), generator=generator).to(dtype)
    bias = torch.randint(-8, 9, (75,), generator=generator).float()
    y = torch.randint(-8, 9, (rows, 75), generator=generator).float()
    expected = (x.double() @ weight.double().T + bias.double()).float()
    layer = Linear(weight, bias)
    assert torch.equal(layer(x), expected)
    assert torch.equal(Linear(weight)(x), expected - bias)
    assert torch.equal(layer.add_to(x, y.clone()), y + expected)
    assert torch.equal(layer(x.T.contiguous().T), expected)  # rows that do not lie in one piece
    assert torch.equal(Linear(weight.T.contiguous().T, bias)(x), expected)  # a transposed view
    assert torch.equal(Linear(torch.cat([weight, weight], dim=1)[:, :94], bias)(x), expected)  # a slice of columns


@settings(max_examples=25)
@given(
    shape=st.tuples(st.integers(2, 24), st.integers(1, 100), st.sampled_from([1, 2, 16, 31, 126, 700])),
    dtype=st.sampled_from(DTYPES),
    has_bias=st.booleans(),
    seed=st.integers(0, 2**30),
)
@example(shape=(20, 70, 1408), dtype=torch.bfloat16, has_bias=True, seed=1)
@example(shape=(20, 33, 2816), dtype=torch.float32, has_bias=False, seed=2)
def test_rows_do_not_depend_on_their_neighbours(
    shape: tuple[int, int, int], dtype: torch.dtype, has_bias: bool, seed: int
) -> None:
    require_library()
    rows, outputs, inner = shape
    inner += inner % 2 if dtype == torch.bfloat16 else 0
    layer = Linear(normal(outputs, inner, seed=seed, dtype=dtype), normal(outputs, seed=seed + 1) if has_bias else None)
    x = normal(rows, inner, seed=seed + 2, dtype=dtype)
    x[0] *= 2.0**60
    x[1] *= 2.0**-60
    assert dependent_rows(layer, x, seed) == []


@pytest.mark.parametrize("inner", [320, 1024, 1100, 2816])
def test_reference_rows_in_bfloat16_do_not_depend_on_their_neighbours(inner: int) -> None:
    # Rounding to bfloat16 hides all but some of ten thousand differences: it takes many outputs to see one.
    weight, x = normal(2048, inner, seed=3, dtype=torch.bfloat16), normal(24, inner, seed=4, dtype=torch.bfloat16)
    with form("reference"):
        layer = Linear(weight)
        assert layer.packed is None
        assert dependent_rows(layer, x, seed=6, num_groups=12) == []


def test_an_ordinary_product_is_caught() -> None:
    """torch chooses the order of its sums by the number of rows; the check above must see that."""
    weight, x = normal(100, 300, seed=0), normal(12, 300, seed=1)
    assert dependent_rows(lambda rows: F.linear(rows, weight), x, seed=2) != []
    assert dependent_rows(lambda rows: torch.matmul(rows, weight.T), x, seed=2) != []
    assert dependent_rows(Linear(weight), x, seed=2) == []


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_packed_by_any_number_of_threads_are_the_same(dtype: torch.dtype) -> None:
    require_library()
    weight = normal(500, 270, seed=0, dtype=dtype)  # enough work for three members
    packed = []
    for num_threads in (1, 2, 3):
        with native.use_threads(num_threads):
            packed.append(Linear(weight).packed)
    assert packed[0] is not None
    assert all(other is not None and same_bits(packed[0], other) for other in packed)
    assert packed[0].numel() == 512 * 270  # outputs up to a whole number of blocks, nothing more


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("row", [0, 4, 8])
def test_a_bad_row_reaches_no_other(row: int, dtype: torch.dtype) -> None:
    layer, x = Linear(normal(40, 50, seed=0, dtype=dtype)), normal(9, 50, seed=1, dtype=dtype)
    clean, others = layer(x), [i for i in range(9) if i != row]
    dirty = layer(with_bad_row(x, row))
    assert same_bits(dirty[others], clean[others])
    assert not dirty[row].isfinite().any()


@settings(max_examples=20)
@given(
    vocabulary=st.integers(1, 100),
    hidden=st.integers(1, 80),
    dtype=st.sampled_from(DTYPES),
    name=st.sampled_from(FORMS),
)
def test_embedding_reads_rows_of_the_weight_exactly(
    vocabulary: int, hidden: int, dtype: torch.dtype, name: str
) -> None:
    table = normal(vocabulary, hidden, seed=vocabulary, dtype=dtype)
    tokens = torch.tensor([0, vocabulary - 1, vocabulary // 2, 0])
    with form(name):
        layer = Linear(table)
        assert same_bits(layer.embed(tokens), table.float()[tokens])
    assert same_bits(embed_reference(tokens, table), table.float()[tokens])


def test_no_rows_give_no_rows() -> None:
    assert Linear(normal(5, 6, seed=0))(torch.empty(0, 6)).shape == (0, 5)


def test_what_does_not_fit_is_refused_with_the_value_found() -> None:
    with pytest.raises(ValueError, match=r"float16 \(2, 3\)"):
        Linear(torch.zeros(2, 3, dtype=torch.float16))
    with pytest.raises(ValueError, match=r"\(3,\)"):
        Linear(torch.zeros(3))
    layer = Linear(torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"x must be float32 \[rows, 4\], got torch.float32 \(1, 5\)"):
        layer(torch.zeros(1, 5))
    with pytest.raises(ValueError, match=r"got torch.bfloat16"):
        layer(torch.zeros(1, 4, dtype=torch.bfloat16))
