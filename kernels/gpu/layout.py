"""Where the elements of a slot lie in one layer of the cache: the layout that kernels/paged.py describes."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["BLOCK_TOKENS", "key_offsets", "value_offsets"]

BLOCK_TOKENS = tl.constexpr(16)


@triton.jit
def key_offsets(slots, head, elements, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, KEY_WIDTH: tl.constexpr):
    """Of elements of a key: slots and elements broadcast against each other. 64 bits, for caches are large."""
    head_start = (slots // BLOCK_TOKENS).to(tl.int64) * KV_HEADS + head
    strip = elements // KEY_WIDTH * BLOCK_TOKENS + slots % BLOCK_TOKENS
    return head_start * (HEAD_DIM * BLOCK_TOKENS) + strip * KEY_WIDTH + elements % KEY_WIDTH


@triton.jit
def value_offsets(slots, head, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr):
    """Of a value's first element."""
    head_start = (slots // BLOCK_TOKENS).to(tl.int64) * KV_HEADS + head
    return (head_start * BLOCK_TOKENS + slots % BLOCK_TOKENS) * HEAD_DIM
