"""Whatever does not fit is refused before memory is read by it, with what was found and what would be right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from kernels.attention import attention
from kernels.checks import check_tensor
from kernels.linear import Linear
from kernels.noise import Choice, choose, gumbel, log_sum, noise, philox
from kernels.norm import add_rms_norm, rms_norm
from kernels.paged import KVCache, Rows
from kernels.pick import Allowed, Edits, pick, scaled_logits
from kernels.pruning import compact_rows, count_larger
from kernels.quantised import QuantisedLinear, quantise
from kernels.rotary import rotary_into_cache
from kernels.swiglu import swiglu

F32 = torch.float32
LINEAR, ROUNDED = Linear(torch.ones(4, 2)), QuantisedLinear(torch.ones(4, 2), "int8")
CACHE = KVCache(num_layers=2, num_blocks=2, num_kv_heads=1, head_dim=4, dtype=F32)
NUMBERS: dict[str, list[int]] = {
    "positions": [3, 4],
    "write_slots": [3, 20],
    "num_in_table": [4, 4],
    "table_offsets": [0, 0],
    "tables": [0],
    "tail_offsets": [0, 0, 1],
    "tail_slots": [20],
}


def strided(*shape: int, dtype: torch.dtype = F32) -> torch.Tensor:
    """Every second element of each row."""
    return torch.ones(*shape[:-1], 2 * shape[-1], dtype=dtype)[..., ::2]


def attend(queries: torch.Tensor | None = None, *, layer: int = 0, window: int = 0, **numbers: list[int]) -> object:
    rows = Rows.from_lists(**{**NUMBERS, **numbers})
    return attention(torch.ones(2, 8) if queries is None else queries, rows, CACHE, layer, window=window)


def rotate(*, layer: int = 0, numbers: dict[str, list[int]] | None = None, **others: torch.Tensor) -> object:
    given: dict[str, Any] = {
        "qkv": torch.ones(2, 12),
        "cosines": torch.ones(5, 2),
        "sines": torch.ones(5, 2),
        "query_norm": None,
        "key_norm": None,
        **others,
    }
    rows = Rows.from_lists(**{**NUMBERS, **(numbers or {})})
    return rotary_into_cache(given.pop("qkv"), rows, CACHE, layer, **given, eps=1e-6)


def pick_masked(*shape: int, rows: int = 1, dtype: type = np.uint8, first_token: int = 0) -> object:
    allowed = Allowed(rows=np.arange(rows), bits=np.ones(shape, dtype))
    return pick(torch.ones(1, 20), [Choice()], allowed=allowed, first_token=first_token)


@dataclass(frozen=True, slots=True)
class Hole:
    """What some operation must not be given."""

    call: Callable[[], object]
    message: str


HOLES = [
    Hole(
        lambda: Linear(torch.ones(4, 2), torch.ones(3)),
        r"bias must be float32 or bfloat16 \[4\], got torch.float32 \(3,\)",
    ),
    Hole(lambda: Linear(torch.ones(4, 2), torch.ones(4).double()), r"bias must .* got torch.float64 \(4,\)"),
    Hole(lambda: LINEAR(torch.ones(2)), r"x must be float32 \[rows, 2\], got torch.float32 \(2,\)"),
    Hole(lambda: LINEAR.add_to(torch.ones(3, 2), strided(3, 4)), r"y must be contiguous .* with strides \(8, 2\)"),
    Hole(
        lambda: LINEAR.add_to(torch.ones(3, 2), torch.ones(2, 4)),
        r"y must be contiguous float32 \[3, 4\], got .* \(2, 4\)",
    ),
    Hole(lambda: LINEAR.add_to(torch.ones(1, 2), torch.ones(1, 4).bfloat16()), r"y must .* got torch.bfloat16"),
    Hole(
        lambda: LINEAR.embed(torch.tensor([[1]])), r"tokens must be contiguous int64 \[rows\], got torch.int64 \(1, 1\)"
    ),
    Hole(lambda: LINEAR.embed(torch.ones(2, dtype=torch.int32)), r"tokens must .* got torch.int32 \(2,\)"),
    Hole(lambda: LINEAR.embed(strided(2, dtype=torch.int64)), r"tokens must .* with strides \(2,\)"),
    Hole(lambda: LINEAR.embed(torch.tensor([0, 4])), "tokens must be 0 to 3, got 0 to 4"),
    Hole(lambda: LINEAR.embed(torch.tensor([-1])), "tokens must be 0 to 3, got -1 to -1"),
    Hole(
        lambda: QuantisedLinear(torch.ones(4, 2), "int8", torch.ones(5)),
        r"bias must .* \[4\], got torch.float32 \(5,\)",
    ),
    Hole(lambda: ROUNDED.add_to(torch.ones(3, 2), strided(3, 4)), r"y must be contiguous .* with strides \(8, 2\)"),
    Hole(lambda: ROUNDED.add_to(torch.ones(3, 2), torch.ones(1, 4)), r"y must .* \[3, 4\], got torch.float32 \(1, 4\)"),
    Hole(
        lambda: quantise(torch.ones(2), "fp8"), r"weight must be float32 or bfloat16 \[outputs, inner\], got .* \(2,\)"
    ),
    Hole(lambda: quantise(torch.ones(2, 2), "int4"), "to int8 or fp8, not to 'int4'"),
    Hole(lambda: rms_norm(torch.ones(2, 4), strided(4), 0.0, F32), r"weight must be contiguous .* with strides \(2,\)"),
    Hole(lambda: rms_norm(strided(2, 4), torch.ones(4), 0.0, F32), r"x must be contiguous .* with strides \(8, 2\)"),
    Hole(
        lambda: rms_norm(torch.ones(2, 4), torch.ones(4), 0.0, torch.float16),
        "rounded to float32 or bfloat16, not to torch.float16",
    ),
    Hole(
        lambda: add_rms_norm(torch.ones(2, 4), strided(2, 4), torch.ones(4), 0.0, F32),
        r"delta must .* with strides \(8, 2\)",
    ),
    Hole(
        lambda: add_rms_norm(torch.ones(2, 4), torch.ones(2, 4), strided(4), 0.0, F32),
        r"weight must .* with strides \(2,\)",
    ),
    Hole(
        lambda: swiglu(strided(2, 4), F32),
        r"gate_up must be contiguous float32 \[rows, 2 \* size\], got .* with strides \(8, 2\)",
    ),
    Hole(lambda: swiglu(torch.ones(2, 4), torch.float64), "not to torch.float64"),
    Hole(
        lambda: compact_rows(torch.ones(3, 2), strided(3, dtype=torch.bool)),
        r"keep must be contiguous bool \[3\], .* strides \(2,\)",
    ),
    Hole(
        lambda: compact_rows(strided(3, 2), torch.ones(3, dtype=torch.bool)),
        r"x must be contiguous \[rows, size\], .* strides \(4, 2\)",
    ),
    Hole(
        lambda: count_larger(torch.ones(2, 3), strided(2, dtype=torch.int64), torch.ones(2)),
        r"rows must .* with strides \(2,\)",
    ),
    Hole(
        lambda: count_larger(torch.ones(2, 3), torch.ones(2), torch.ones(2)),
        r"rows must be contiguous int64 or int32 \[n\], got torch.float32",
    ),
    Hole(
        lambda: count_larger(torch.ones(2, 3), torch.tensor([0, 1]), strided(2)), r"values must .* with strides \(2,\)"
    ),
    Hole(
        lambda: count_larger(strided(2, 3), torch.tensor([0]), torch.ones(1)),
        r"logits must be float32 \[rows, size\] with contiguous rows, got",
    ),
    Hole(lambda: noise(1, 2, 5, 3), "0 <= first <= last, got first 5, last 3"),
    Hole(lambda: noise(1, 2, -4, 3), "got first -4, last 3"),
    Hole(lambda: gumbel(torch.ones(2)), r"bits must be int64 \[n\], got torch.float32 \(2,\)"),
    Hole(
        lambda: philox(torch.tensor([[1]]), (0, 0, 0), (0, 0)),
        r"counters must be int64 \[n\], got torch.int64 \(1, 1\)",
    ),
    Hole(lambda: log_sum(torch.ones(2, 0)), "must have at least one column"),
    Hole(lambda: choose(torch.ones(1, 0), [Choice()]), "got 0 tokens beginning at 0"),
    Hole(lambda: choose(torch.ones(1, 3), [Choice()], first_token=-1), "got 3 tokens beginning at -1"),
    Hole(
        lambda: pick(torch.ones(1, 3), [Choice()], edits=Edits(places=np.zeros((1, 2), int), values=np.ones((2, 2)))),
        r"edits must be \[n, 2\] both, got places \(1, 2\), values \(2, 2\)",
    ),
    Hole(lambda: pick_masked(1, 2), r"masks must be uint8 \[1, at least 3\], got uint8 \(1, 2\)"),
    Hole(lambda: pick_masked(1, 3, first_token=5), r"\[1, at least 4\], got uint8 \(1, 3\)"),
    Hole(lambda: pick_masked(2, 3), r"\[1, at least 3\], got uint8 \(2, 3\)"),
    Hole(lambda: pick_masked(1, 3, dtype=np.int64), r"got int64 \(1, 3\)"),
    Hole(lambda: scaled_logits(torch.ones(1, 3), [Choice()], [0, 1]), "rows must be 0 to 0, got 0 to 1"),
    Hole(lambda: attend(strided(2, 8)), r"queries must be contiguous .* with strides \(16, 2\)"),
    Hole(lambda: attend(torch.ones(2, 6)), "a multiple of 4 columns, 1 groups of heads of 4; got 6"),
    Hole(lambda: attend(layer=2), "layer must be 0 to 1, got 2"),
    Hole(lambda: attend(tables=[2]), "blocks must be 0 to 1, got 2 to 2"),
    Hole(lambda: attend(tables=[-1]), "blocks must be 0 to 1, got -1 to -1"),
    Hole(lambda: attend(tail_slots=[32]), "tail slots must be 0 to 31, got 32 to 32"),
    Hole(lambda: attend(tail_slots=[]), "tail slots up to 1, but there are 0"),
    Hole(lambda: attend(table_offsets=[0, 1]), "block tables up to entry 2, but there are 1"),
    Hole(lambda: attend(positions=[3, 9]), "row 1 at position 9 lists 5 keys instead of 10"),
    Hole(lambda: rotate(qkv=strided(2, 12)), r"qkv must be contiguous .* with strides \(24, 2\)"),
    Hole(lambda: rotate(cosines=strided(5, 2)), r"cosines must be contiguous .* with strides \(4, 2\)"),
    Hole(lambda: rotate(sines=strided(5, 2)), r"sines must be contiguous .* with strides \(4, 2\)"),
    Hole(
        lambda: rotate(sines=torch.ones(4, 2)), r"sines must be contiguous float32 \[5, 2\], got torch.float32 \(4, 2\)"
    ),
    Hole(lambda: rotate(query_norm=strided(4)), r"query_norm must .* with strides \(2,\)"),
    Hole(lambda: rotate(key_norm=strided(4)), r"key_norm must .* with strides \(2,\)"),
    Hole(lambda: rotate(layer=-1), "layer must be 0 to 1, got -1"),
    Hole(lambda: rotate(numbers={"write_slots": [3, 32]}), "write_slots must be 0 to 31, got 3 to 32"),
    Hole(lambda: rotate(numbers={"write_slots": [-1, 3]}), "write_slots must be 0 to 31, got -1 to 3"),
    Hole(lambda: rotate(numbers={"positions": [3, 5]}), "positions must be 0 to 4, got 3 to 5"),
]


@pytest.mark.parametrize("hole", HOLES, ids=lambda hole: hole.message)
def test_what_would_be_read_wrongly_is_refused(hole: Hole) -> None:
    with pytest.raises(ValueError, match=hole.message):
        hole.call()


def test_what_fits_is_not() -> None:
    """The calls above without what is wrong with each."""
    attend()
    rotate(query_norm=torch.ones(4), key_norm=torch.ones(4))
    pick_masked(1, 3)
    assert LINEAR.embed(torch.empty(0, dtype=torch.int64)).shape == (0, 2)
    assert Linear(torch.ones(4, 2), strided(4).bfloat16())(torch.ones(1, 2)).tolist() == [[3.0] * 4]


def test_words_stand_for_any_size() -> None:
    x = torch.ones(2, 3)
    check_tensor("x", x, ("rows", 3))
    check_tensor("x", x[:, :2], (2, "size"), torch.float64, torch.float32, lies="in rows")
    check_tensor("x", x.T, (3, 2), lies="anyhow")
    with pytest.raises(ValueError, match=r"x must be contiguous \[rows, 4\], got torch.float32 \(2, 3\)"):
        check_tensor("x", x, ("rows", 4))


def test_numbers_that_a_step_uses_in_every_layer_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And again where the cache is another."""
    rows = Rows.from_lists(**NUMBERS)
    smaller = KVCache(num_layers=2, num_blocks=1, num_kv_heads=1, head_dim=4, dtype=F32)
    attention(torch.ones(2, 4), rows, CACHE, 0, window=0)
    with monkeypatch.context() as patch:
        patch.setattr(Rows, "host", property(lambda _: pytest.fail("looked again")))
        attention(torch.ones(2, 4), rows, CACHE, 1, window=0)
    with pytest.raises(ValueError, match="tail slots must be 0 to 15, got 20 to 20"):
        attention(torch.ones(2, 4), rows, smaller, 0, window=0)
