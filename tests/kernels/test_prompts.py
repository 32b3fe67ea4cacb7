"""Prompts read by FlashInfer, which is stood in for by what its documentation says of its arguments, done in torch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kernels.attention import attention, attention_reference
from kernels.paged import KVCache, Rows
from kernels.prompts import PromptAttention
from tests.kernels.rig import assert_close, normal

HEADS, KV_HEADS, HEAD_DIM = 4, 2, 64


class Wrapper:
    """`BatchPrefillWithPagedKVCacheWrapper`: its documented parameters, and for each request masked attention."""

    num_made = num_plans = 0

    def __init__(self, float_workspace_buffer: torch.Tensor, kv_layout: str = "NHD") -> None:
        Wrapper.num_made += 1
        assert float_workspace_buffer.dtype == torch.uint8
        assert kv_layout == "HND"

    def plan(
        self,
        qo_indptr: torch.Tensor,
        paged_kv_indptr: torch.Tensor,
        paged_kv_indices: torch.Tensor,
        paged_kv_last_page_len: torch.Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim_qk: int,
        page_size: int,
        *,
        causal: bool = False,
        sm_scale: float | None = None,
        window_left: int = -1,
        q_data_type: torch.dtype | str = "float16",
        kv_data_type: torch.dtype | None = None,
    ) -> None:
        assert causal
        assert q_data_type == kv_data_type == torch.bfloat16
        assert {x.dtype for x in (qo_indptr, paged_kv_indptr, paged_kv_indices)} == {torch.int32}
        self.rows, self.pages, self.indices = qo_indptr.tolist(), paged_kv_indptr.tolist(), paged_kv_indices.long()
        self.last, self.heads, self.kv_heads = paged_kv_last_page_len.tolist(), num_qo_heads, num_kv_heads
        self.page_size, self.window, self.scale = page_size, window_left, sm_scale or head_dim_qk**-0.5
        Wrapper.num_plans += 1

    def run(self, q: torch.Tensor, paged_kv_cache: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        out = torch.empty_like(q)
        assert q.shape[1] == self.heads
        for request, last in enumerate(self.last):
            assert 1 <= last <= self.page_size
            mine = self.indices[self.pages[request] : self.pages[request + 1]]
            num_keys = self.page_size * (len(mine) - 1) + last
            # [pages, kv_heads, page_size, head_dim] to [kv_heads, keys, head_dim]
            keys, values = (x[mine].transpose(0, 1).flatten(1, 2)[:, :num_keys].float() for x in paged_kv_cache)
            group = self.heads // self.kv_heads
            asked = slice(self.rows[request], self.rows[request + 1])
            queries = q[asked].float().transpose(0, 1)
            scores = queries @ keys.repeat_interleave(group, 0).transpose(1, 2) * self.scale
            at = torch.arange(num_keys - queries.shape[1], num_keys)[:, None]
            seen = torch.arange(num_keys) <= at
            if self.window >= 0:
                seen &= torch.arange(num_keys) >= at - self.window
            weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
            out[asked] = (weights @ values.repeat_interleave(group, 0)).transpose(0, 1).to(out.dtype)
        return out


def scene(*, tail: bool = False) -> tuple[torch.Tensor, Rows, KVCache]:
    """A piece of a prompt behind keys that were read before, over scattered blocks, and a whole one beside it."""
    cache = KVCache(
        num_layers=2, num_blocks=6, num_kv_heads=KV_HEADS, head_dim=HEAD_DIM, dtype=torch.bfloat16, key_width=HEAD_DIM
    )
    cache.keys.copy_(normal(*cache.keys.shape, seed=1))
    cache.values.copy_(normal(*cache.values.shape, seed=2))
    positions = [*range(5, 37), *range(16)]
    seen = [position + 1 for position in positions]
    tails: list[int] = []
    if tail:
        seen[-1], tails = 15, [40]
    rows = Rows.from_lists(
        positions=positions,
        write_slots=[0] * 48,
        num_in_table=seen,
        table_offsets=[0] * 32 + [3] * 16,
        tables=[5, 0, 3, 2],
        tail_offsets=[0] * 48 + [len(tails)],
        tail_slots=tails,
    )
    return normal(48, HEADS * HEAD_DIM, seed=3, dtype=torch.bfloat16), rows, cache


@pytest.mark.parametrize("window", [0, 7])
def test_the_arguments_say_what_attention_means(window: int) -> None:
    queries, rows, cache = scene()
    reader = cache.prompts = PromptAttention(SimpleNamespace(BatchPrefillWithPagedKVCacheWrapper=Wrapper), "cpu")
    assert reader.reads(rows)
    before, made_before = Wrapper.num_plans, Wrapper.num_made
    attention(queries, rows, cache, 0, window=window)
    found = attention(queries, rows, cache, 1, window=window)
    assert_close(found, attention_reference(queries, rows, cache, 1, window=window).double(), rtol=0.02, atol=0.02)
    assert Wrapper.num_plans == before + 1
    attention(queries, scene()[1], cache, 0, window=window)
    assert (Wrapper.num_plans, Wrapper.num_made) == (before + 2, made_before + 1), "each holds memory of its own"


def test_trees_short_steps_and_replayed_rows_are_not_for_it() -> None:
    nothing: Any = SimpleNamespace(BatchPrefillWithPagedKVCacheWrapper=None)
    reader = PromptAttention(nothing, "cpu")
    assert not reader.reads(scene(tail=True)[1])
    _, rows, _ = scene()
    assert not reader.reads(rows.select(torch.arange(32, 40)))
    assert not reader.reads(rows.select(torch.arange(0, 32, 2)))
    rows.use_tiles(4, rows.tiles(rows_per_tile=4))
    assert not reader.reads(rows)
