"""Shared noise, made where it is used: scaled logits plus noise, and the best of them, without a tensor of noise.

The operations and their order are those of kernels/noise.py, whose bits are the definition. Every launch forbids the
compiler to fuse a multiplication with an addition, which would round once where the definition rounds twice.

A row's vocabulary is cut into parts; each part lists its best tokens, and a second kernel finds the best of the lists.
Equal values go by the smaller token in both, so where the cuts are does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl

from kernels.noise import Choice
from kernels.pinned import to_device

__all__ = [
    "BLOCK",
    "Asked",
    "asked_of",
    "best_of_parts",
    "choose",
    "edited",
    "gumbel_of_words",
    "log_sum",
    "noise",
    "num_parts",
    "numbers_of",
    "part_of",
]

BLOCK = 1024
"""Tokens of a part."""
_SUM_BLOCK = 4096
_NO_TOKEN = tl.constexpr(2**62)
_MINUS_INFINITY = tl.constexpr(float("-inf"))


def noise(seed: int, position: int, first: int, last: int, device: torch.device | str) -> torch.Tensor:
    """Noise of tokens first..last-1, float32 on the device: for tests, for `choose` makes its own."""
    out = torch.empty(last - first, dtype=torch.float32, device=device)
    numbers = torch.tensor([_signed(seed), position], dtype=torch.int64, device=device)
    _noise[(triton.cdiv(last - first // 4 * 4, BLOCK),)](
        numbers, out, first, last, first // 4 * 4, BLOCK=BLOCK, enable_fp_fusion=False
    )
    return out


def gumbel_of_words(
    words: torch.Tensor,  # [n] int64 holding unsigned 32-bit words
) -> torch.Tensor:
    """The transform alone, float32 [n]: for tests, which reach the ends of the distribution by it."""
    out = torch.empty(words.shape[0], dtype=torch.float32, device=words.device)
    _transform[(triton.cdiv(words.shape[0], BLOCK),)](words, out, words.shape[0], BLOCK=BLOCK, enable_fp_fusion=False)
    return out


def choose(
    logits: torch.Tensor,  # [rows, size] float32
    choices: Sequence[Choice],
    *,
    num_top: int,
    first_token: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values float32 and tokens int64, both [rows, num_top]."""
    asked = asked_of(choices, logits.device)
    values, tokens, _, _ = best_of_parts(logits, asked, num_top=num_top, first_token=first_token)
    return values, tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is asked of each row, on the device."""

    choices: torch.Tensor  # [rows, 4] int64, of `numbers_of`
    edit_starts: torch.Tensor | None  # [rows * parts + 1] int32: where the edits of each part begin
    edit_tokens: torch.Tensor  # [n] int32, within the shard
    edit_values: torch.Tensor  # [n, 2] float32: factors and addends
    mask_of: torch.Tensor | None  # [rows] int32: the row's mask, -1 where it may choose every token
    masks: torch.Tensor  # [m, mask_bytes] uint8: a bit for each token of the whole vocabulary
    mask_bytes: int


def asked_of(choices: Sequence[Choice], device: torch.device) -> Asked:
    """Choices alone, brought to the device. What is not there has the type that it would have: a kernel is compiled
    for types."""
    return Asked(
        choices=to_device(numbers_of(choices), device),
        edit_starts=None,
        edit_tokens=torch.empty(0, dtype=torch.int32, device=device),
        edit_values=torch.empty(0, dtype=torch.float32, device=device),
        mask_of=None,
        masks=torch.empty(0, dtype=torch.uint8, device=device),
        mask_bytes=0,
    )


def numbers_of(choices: Sequence[Choice]) -> torch.Tensor:
    """All choices as one tensor [rows, 4] int64, so that they cross at once: seed, position, two floats, noisy."""
    floats = torch.tensor([(c.inverse_temperature, c.threshold) for c in choices], dtype=torch.float32)
    numbers = torch.tensor([(_signed(c.seed), c.position, 0, c.noisy) for c in choices], dtype=torch.int64)
    numbers[:, 2] = floats.view(torch.int64)[:, 0]
    return numbers


def _signed(seed: int) -> int:
    """The same 64 bits as a signed number."""
    return seed - 2**64 if seed >= 2**63 else seed


def best_of_parts(
    logits: torch.Tensor,  # [rows, size] float32
    asked: Asked,
    *,
    num_top: int,
    first_token: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values, tokens and logits as they came, all [rows, num_top]; and log-sum parts [rows, 2] of the latter."""
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    rows, size = logits.shape
    device = logits.device
    parts = num_parts(size, first_token)
    values, raw = (torch.empty(rows, num_top, dtype=torch.float32, device=device) for _ in range(2))
    tokens = torch.empty(rows, num_top, dtype=torch.int64, device=device)
    sums = torch.empty(rows, 2, dtype=torch.float32, device=device)
    if rows == 0:
        return values, tokens, raw, sums
    part_values, part_raw = (torch.empty(rows, parts, num_top, dtype=torch.float32, device=device) for _ in range(2))
    part_tokens = torch.empty(rows, parts, num_top, dtype=torch.int64, device=device)
    part_sums = torch.empty(rows, parts, 2, dtype=torch.float32, device=device)
    _best_of_part[(rows, parts)](
        logits,
        asked.choices,
        asked.edit_starts,
        asked.edit_tokens,
        asked.edit_values,
        asked.mask_of,
        asked.masks,
        part_values,
        part_tokens,
        part_raw,
        part_sums,
        size,
        logits.stride(0),
        first_token,
        num_top,
        asked.mask_bytes,
        EDITED=asked.edit_starts is not None,
        MASKED=asked.mask_of is not None,
        BLOCK=BLOCK,
        enable_fp_fusion=False,
    )
    _best_of_row[(rows,)](
        part_values,
        part_tokens,
        part_raw,
        part_sums,
        values,
        tokens,
        raw,
        sums,
        parts,
        num_top,
        PARTS=triton.next_power_of_2(parts),
        BLOCK=triton.next_power_of_2(parts * num_top),
        enable_fp_fusion=False,
    )
    return values, tokens, raw, sums


def num_parts(size: int, first_token: int) -> int:
    """Parts begin at multiples of four tokens, because one draw of the generator serves four."""
    return -(-(size + first_token % 4) // BLOCK)


def part_of(
    columns: np.ndarray[Any, np.dtype[np.int32]],  # [n]: tokens, counted from the shard's first
    first_token: int,
) -> np.ndarray[Any, np.dtype[np.int32]]:
    """The part of the shard in which each lies."""
    return (columns + first_token % 4) // BLOCK


def log_sum(
    x: torch.Tensor,  # [rows, size] float32
) -> torch.Tensor:
    """[rows, 2]: the largest value, and the sum of exp(x - largest)."""
    parts = torch.empty(x.shape[0], 2, dtype=torch.float32, device=x.device)
    if x.shape[0]:
        _log_sum[(x.shape[0],)](x, parts, x.shape[1], x.stride(0), BLOCK=_SUM_BLOCK, enable_fp_fusion=False)
    return parts


@triton.jit
def _noise(numbers, out, first, last, aligned, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK + aligned
    tokens = start + tl.arange(0, BLOCK)
    found = _noise_of(tl.load(numbers), tl.load(numbers + 1), start, BLOCK)
    tl.store(out + tokens - first, found, mask=(tokens >= first) & (tokens < last))


@triton.jit
def _transform(words, out, count, BLOCK: tl.constexpr):
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    held = places < count
    tl.store(out + places, _gumbel(tl.load(words + places, mask=held, other=0).to(tl.uint32)), mask=held)


@triton.jit
def _noise_of(seed, position, start, BLOCK: tl.constexpr):
    """Of the BLOCK tokens from `start`, a multiple of four."""
    c0 = (start // 4 + tl.arange(0, BLOCK // 4)).to(tl.uint32)
    c1 = tl.zeros_like(c0) + (position & 0xFFFFFFFF).to(tl.uint32)
    c2 = tl.zeros_like(c0) + ((position >> 32) & 0xFFFFFFFF).to(tl.uint32)
    c3 = tl.zeros_like(c0)
    k0 = (seed & 0xFFFFFFFF).to(tl.uint32)
    k1 = ((seed >> 32) & 0xFFFFFFFF).to(tl.uint32)
    for _ in tl.static_range(10):
        a, b = c0.to(tl.uint64) * 0xD2511F53, c2.to(tl.uint64) * 0xCD9E8D57
        c0, c1 = (b >> 32).to(tl.uint32) ^ c1 ^ k0, (b & 0xFFFFFFFF).to(tl.uint32)
        c2, c3 = (a >> 32).to(tl.uint32) ^ c3 ^ k1, (a & 0xFFFFFFFF).to(tl.uint32)
        k0, k1 = k0 + 0x9E3779B9, k1 + 0xBB67AE85
    bits = tl.interleave(tl.interleave(c0, c2), tl.interleave(c1, c3))
    return _gumbel(bits)


@triton.jit
def _gumbel(bits):
    below = (bits.to(tl.float32) + 0.5) * 2.3283064365386963e-10
    above = ((0xFFFFFFFF - bits).to(tl.float32) + 0.5) * 2.3283064365386963e-10
    z, e = _split(below)
    near_one = above < 0.25
    exponential = -_log(tl.where(near_one, -above, z), tl.where(near_one, 0.0, e))
    z, e = _split(exponential)
    return -_log(z, e)


@triton.jit
def _split(x):
    shifted = x.to(tl.int32, bitcast=True) - 0x3F3504F3
    mantissa = (shifted & 0x007FFFFF) + 0x3F3504F3
    return mantissa.to(tl.float32, bitcast=True) - 1.0, (shifted >> 23).to(tl.float32)


@triton.jit
def _log(z, e):
    p = 7.0376836292e-2
    p = p * z + -1.1514610310e-1
    p = p * z + 1.1676998740e-1
    p = p * z + -1.2420140846e-1
    p = p * z + 1.4249322787e-1
    p = p * z + -1.6668057665e-1
    p = p * z + 2.0000714765e-1
    p = p * z + -2.4999993993e-1
    p = p * z + 3.3333331174e-1
    square = z * z
    r = p * z * square
    r = r + e * -2.12194440e-4
    r = r + square * -0.5
    r = z + r
    return r + e * 0.693359375


@triton.jit
def edited(
    found,
    tokens,
    columns,
    held,
    row,
    place,
    edit_starts,
    edit_tokens,
    edit_values,
    mask_of,
    masks,
    mask_bytes,
    EDITED: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Logits of one part of a row after its penalties, and minus infinity where its mask has no bit."""
    if EDITED:
        for edit in range(tl.load(edit_starts + place), tl.load(edit_starts + place + 1)):
            factor, addend = tl.load(edit_values + edit * 2), tl.load(edit_values + edit * 2 + 1)
            changed = tl.where(found > 0.0, tl.div_rn(found, factor), found * factor) + addend
            found = tl.where(columns == tl.load(edit_tokens + edit), changed, found)
    if MASKED:
        mask = tl.load(mask_of + row)
        if mask >= 0:
            bits = tl.load(masks + mask.to(tl.int64) * mask_bytes + tokens // 8, mask=held, other=0)
            found = tl.where((bits.to(tl.int32) >> (tokens % 8).to(tl.int32)) & 1 != 0, found, _MINUS_INFINITY)
    return found


@triton.jit(do_not_specialize=["num_top", "mask_bytes"])
def _best_of_part(
    logits,
    choices,
    edit_starts,
    edit_tokens,
    edit_values,
    mask_of,
    masks,
    part_values,
    part_tokens,
    part_raw,
    part_sums,
    size,
    row_stride,
    first_token,
    num_top,
    mask_bytes,
    EDITED: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    start = part.to(tl.int64) * BLOCK + first_token // 4 * 4
    tokens = start + tl.arange(0, BLOCK)
    columns = tokens - first_token
    held = (columns >= 0) & (columns < size)
    raw = tl.load(logits + row * row_stride + columns, mask=held, other=_MINUS_INFINITY)
    place = row * tl.num_programs(1) + part
    largest = tl.max(raw, axis=0)
    sums = tl.sum(tl.exp(raw - tl.where(largest == _MINUS_INFINITY, 0.0, largest)), axis=0)
    tl.store(part_sums + place * 2, largest)
    tl.store(part_sums + place * 2 + 1, sums)
    changed = edited(
        raw,
        tokens,
        columns,
        held,
        row,
        place,
        edit_starts,
        edit_tokens,
        edit_values,
        mask_of,
        masks,
        mask_bytes,
        EDITED,
        MASKED,
    )
    choice = choices + row * 4
    floats = (choice + 2).to(tl.pointer_type(tl.float32))
    inverse_temperature, threshold = tl.load(floats), tl.load(floats + 1)
    scaled = changed * inverse_temperature
    value = scaled
    if tl.load(choice + 3) != 0:
        value = scaled + _noise_of(tl.load(choice), tl.load(choice + 1), start, BLOCK)
    value = tl.where((scaled >= threshold) & (value > _MINUS_INFINITY), value, _MINUS_INFINITY)
    for rank in range(num_top):
        best = tl.max(value, axis=0)
        token = tl.min(tl.where((value == best) & (value > _MINUS_INFINITY), tokens, _NO_TOKEN), axis=0)
        tl.store(part_values + place * num_top + rank, best)
        tl.store(part_tokens + place * num_top + rank, token)
        tl.store(part_raw + place * num_top + rank, tl.max(tl.where(tokens == token, raw, _MINUS_INFINITY), axis=0))
        value = tl.where(tokens == token, _MINUS_INFINITY, value)


@triton.jit(do_not_specialize=["num_top"])
def _best_of_row(
    part_values,
    part_tokens,
    part_raw,
    part_sums,
    values,
    tokens,
    raw,
    sums,
    num_parts,
    num_top,
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    parts = tl.arange(0, PARTS)
    largest_of = tl.load(part_sums + (row * num_parts + parts) * 2, mask=parts < num_parts, other=_MINUS_INFINITY)
    sum_of = tl.load(part_sums + (row * num_parts + parts) * 2 + 1, mask=parts < num_parts, other=0.0)
    largest = tl.max(largest_of, axis=0)
    shift = tl.where(largest == _MINUS_INFINITY, 0.0, largest)
    total = tl.sum(sum_of * tl.exp(largest_of - shift), axis=0)
    tl.store(sums + row * 2, largest)
    tl.store(sums + row * 2 + 1, total)
    places = tl.arange(0, BLOCK)
    held = places < num_parts * num_top
    listed = row * num_parts * num_top + places
    value = tl.load(part_values + listed, mask=held, other=_MINUS_INFINITY)
    token_of = tl.load(part_tokens + listed, mask=held, other=_NO_TOKEN)
    raw_of = tl.load(part_raw + listed, mask=held, other=_MINUS_INFINITY)
    for rank in range(num_top):
        best = tl.max(value, axis=0)
        token = tl.min(tl.where((value == best) & (value > _MINUS_INFINITY), token_of, _NO_TOKEN), axis=0)
        tl.store(values + row * num_top + rank, best)
        tl.store(tokens + row * num_top + rank, tl.where(token == _NO_TOKEN, -1, token))
        tl.store(raw + row * num_top + rank, tl.max(tl.where(token_of == token, raw_of, _MINUS_INFINITY), axis=0))
        value = tl.where(token_of == token, _MINUS_INFINITY, value)


@triton.jit
def _log_sum(x, parts, size, row_stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    largest = _MINUS_INFINITY
    total = 0.0
    for start in range(0, size, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        found = tl.load(x + row * row_stride + columns, mask=columns < size, other=_MINUS_INFINITY)
        higher = tl.maximum(largest, tl.max(found, axis=0))
        shift = tl.where(higher == _MINUS_INFINITY, 0.0, higher)
        total = total * tl.exp(largest - shift) + tl.sum(tl.exp(found - shift), axis=0)
        largest = higher
    tl.store(parts + row * 2, largest)
    tl.store(parts + row * 2 + 1, total)
