"""Choosing with penalties, masks and limits: the kernels of gpu/noise.py, with edits sorted by the part they touch.

The smallest logit that top-k, top-p and min-p leave is found without sorting: how many tokens lie at or above some
number, and how much mass, only falls as the number rises, so its bits are found from the highest on, one pass over the
row each. Sums have one order whatever the batch, and rounded sums fall as exact ones do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import triton
import triton.language as tl

from kernels.gpu.noise import BLOCK, Asked, best_of_parts, edited, num_parts, numbers_of, part_of
from kernels.noise import Choice
from kernels.pinned import to_device

if TYPE_CHECKING:
    from kernels.pick import Allowed, Edits

__all__ = ["Brought", "bring", "pick", "pick_brought", "scaled_logits"]

_LIMIT_BLOCK = 4096
_ALIGNMENT = 4
"""Words: Triton compiles another kernel for each pointer that is not a multiple of sixteen bytes."""
_MINUS_INFINITY = tl.constexpr(float("-inf"))

Array = np.ndarray[Any, np.dtype[Any]]


def pick(
    logits: torch.Tensor,  # [rows, size] float32
    choices: Sequence[Choice],
    edits: Edits,
    allowed: Allowed,
    limits: Array | None,  # [rows, 3]
    *,
    num_top: int,
    first_token: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values, tokens and their logits as they came [rows, num_top], and log-sum parts [rows, 2]."""
    brought = bring(logits, choices, edits, allowed, limits, first_token=first_token)
    return pick_brought(logits, brought, num_top=num_top, first_token=first_token)


@dataclass(frozen=True, kw_only=True, slots=True)
class Brought:
    """What is asked, on the device: of all rows, and of those that have limits."""

    asked: Asked
    rows: torch.Tensor  # [m] int32
    bounds: torch.Tensor  # [m, 3] float32 of k, top-p, ln(min-p)


def bring(
    logits: torch.Tensor,  # [rows, size] float32
    choices: Sequence[Choice],
    edits: Edits,
    allowed: Allowed,
    limits: Array | None,  # [rows, 3]
    *,
    first_token: int,
) -> Brought:
    """The host's part of `pick`."""
    limited = np.zeros(0, np.int32) if limits is None else _limited_rows(limits)
    bounds = np.zeros((0, 3), np.float32) if limits is None else _bounds(limits[limited], logits.shape[1])
    return _brought(logits, choices, edits, allowed, first_token, limited, bounds)


def pick_brought(
    logits: torch.Tensor,  # [rows, size] float32
    brought: Brought,
    *,
    num_top: int,
    first_token: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The device's part of `pick`, whose thresholds end up in what was brought."""
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    num_limited = brought.rows.shape[0]
    if num_limited:
        scaled = _scaled_logits(logits, brought.asked, brought.rows, first_token)
        _threshold[(num_limited,)](
            scaled,
            brought.rows,
            brought.bounds,
            brought.asked.choices,
            logits.shape[1],
            BLOCK=_LIMIT_BLOCK,
            enable_fp_fusion=False,
        )
    return best_of_parts(logits, brought.asked, num_top=num_top, first_token=first_token)


def scaled_logits(
    logits: torch.Tensor,  # [rows, size] float32
    choices: Sequence[Choice],
    rows: Sequence[int],
    edits: Edits,
    allowed: Allowed,
    *,
    first_token: int,
) -> torch.Tensor:
    """Some rows, edited, masked and scaled: [len(rows), size]."""
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    wanted, nothing = np.array(rows, dtype=np.int32), np.zeros((0, 3), np.float32)
    brought = _brought(logits, choices, edits, allowed, first_token, wanted, nothing)
    return _scaled_logits(logits, brought.asked, brought.rows, first_token)


def _limited_rows(limits: Array) -> Array:
    top_k, top_p, min_p = limits.T
    return np.flatnonzero((top_k > 0) | (top_p < 1) | (min_p > 0)).astype(np.int32)


def _bounds(limits: Array, size: int) -> Array:
    """As the kernel reads them: [m, 3] float32 of k (the size where there is none), top-p, ln(min-p)."""
    top_k, top_p, min_p = limits.T
    k = np.where(top_k > 0, np.minimum(top_k, size), size)
    with np.errstate(divide="ignore"):
        return np.stack([k, top_p, np.log(min_p)], axis=1).astype(np.float32)


def _brought(
    logits: torch.Tensor,  # [rows, size]
    choices: Sequence[Choice],
    edits: Edits,
    allowed: Allowed,
    first_token: int,
    rows: Array,  # [m] int32
    bounds: Array,  # [m or 0, 3] float32
) -> Brought:
    """In one copy."""
    size, count = logits.shape[1], len(choices)
    held = (edits.places[:, 1] >= first_token) & (edits.places[:, 1] < first_token + size)
    columns = (edits.places[held, 1] - first_token).astype(np.int32)
    parts = num_parts(size, first_token)
    places = edits.places[held, 0] * parts + part_of(columns, first_token)
    order = np.argsort(places, kind="stable")  # edits of one token stay in their order
    starts = np.searchsorted(places[order], np.arange(count * parts + 1)).astype(np.int32)
    mask_of = np.full(count, -1, dtype=np.int32)
    mask_of[allowed.rows] = np.arange(allowed.rows.size)
    bits = np.pad(allowed.bits, ((0, 0), (0, -allowed.bits.shape[1] % 4))).astype(np.uint8)
    host = (
        numbers_of(choices).numpy(),
        starts if columns.size else starts[:0],
        columns[order],
        edits.values[held][order].astype(np.float32),
        mask_of if allowed.rows.size else mask_of[:0],
        bits,
        rows,
        bounds,
    )
    parts_of_words = [np.ascontiguousarray(part).reshape(-1).view(np.int32) for part in host]
    padded = [np.pad(part, (0, -part.size % _ALIGNMENT)) for part in parts_of_words]
    words = to_device(torch.from_numpy(np.concatenate(padded)), logits.device)
    pieces = torch.split(words, [part.size for part in padded])
    there = [piece[: part.size] for piece, part in zip(pieces, parts_of_words, strict=True)]
    asked = Asked(
        choices=there[0].view(torch.int64).view(-1, 4),
        edit_starts=there[1] if columns.size else None,
        edit_tokens=there[2],
        edit_values=there[3].view(torch.float32),
        mask_of=there[4] if allowed.rows.size else None,
        masks=there[5].view(torch.uint8),
        mask_bytes=bits.shape[1],
    )
    return Brought(asked=asked, rows=there[6], bounds=there[7].view(torch.float32))


def _scaled_logits(
    logits: torch.Tensor,  # [rows, size]
    asked: Asked,
    rows: torch.Tensor,  # [m] int32
    first_token: int,
) -> torch.Tensor:
    size = logits.shape[1]
    scaled = torch.empty(rows.shape[0], size, dtype=torch.float32, device=logits.device)
    if rows.shape[0]:
        _scale[(rows.shape[0], num_parts(size, first_token))](
            logits,
            rows,
            asked.choices,
            asked.edit_starts,
            asked.edit_tokens,
            asked.edit_values,
            asked.mask_of,
            asked.masks,
            scaled,
            size,
            logits.stride(0),
            first_token,
            asked.mask_bytes,
            EDITED=asked.edit_starts is not None,
            MASKED=asked.mask_of is not None,
            BLOCK=BLOCK,
            enable_fp_fusion=False,
        )
    return scaled


@triton.jit(do_not_specialize=["mask_bytes"])
def _scale(
    logits,
    rows,
    choices,
    edit_starts,
    edit_tokens,
    edit_values,
    mask_of,
    masks,
    scaled,
    size,
    row_stride,
    first_token,
    mask_bytes,
    EDITED: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row, part = tl.load(rows + tl.program_id(0)).to(tl.int64), tl.program_id(1)
    tokens = part.to(tl.int64) * BLOCK + first_token // 4 * 4 + tl.arange(0, BLOCK)
    columns = tokens - first_token
    held = (columns >= 0) & (columns < size)
    found = tl.load(logits + row * row_stride + columns, mask=held, other=_MINUS_INFINITY)
    place = row * tl.num_programs(1) + part
    found = edited(
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
        EDITED,
        MASKED,
    )
    inverse_temperature = tl.load((choices + row * 4 + 2).to(tl.pointer_type(tl.float32)))
    tl.store(scaled + tl.program_id(0).to(tl.int64) * size + columns, found * inverse_temperature, mask=held)


@triton.jit
def _threshold(scaled, rows, bounds, choices, size, BLOCK: tl.constexpr):
    """The largest threshold of a row's limits becomes its choice's."""
    index = tl.program_id(0).to(tl.int64)
    own = scaled + index * size
    lanes = tl.arange(0, BLOCK)
    highest = tl.full((BLOCK,), _MINUS_INFINITY, dtype=tl.float32)
    there = tl.zeros((BLOCK,), dtype=tl.int32)
    for start in range(0, size, BLOCK):
        found = _some(own, start, size, lanes)
        highest = tl.maximum(highest, found)
        there += (found > _MINUS_INFINITY).to(tl.int32)
    largest, num_there = tl.max(highest, axis=0), tl.sum(there, axis=0)
    k = tl.minimum(tl.load(bounds + index * 3).to(tl.int32), num_there)
    top_p, log_min_p = tl.load(bounds + index * 3 + 1), tl.load(bounds + index * 3 + 2)
    threshold = largest + log_min_p
    kept = tl.full((), -2147483648, dtype=tl.int64)
    if k < num_there:
        for bit in range(32):
            trial = kept + (tl.full((), 2147483648, dtype=tl.int64) >> bit)
            if _count(own, size, trial, lanes) >= k:
                kept = trial
        threshold = tl.maximum(threshold, _number(kept))
    if (top_p < 1.0) & (num_there > 0):
        enough = top_p * _mass(own, size, kept, largest, lanes)
        kept = tl.full((), -2147483648, dtype=tl.int64)
        for bit in range(32):
            trial = kept + (tl.full((), 2147483648, dtype=tl.int64) >> bit)
            if _mass(own, size, trial, largest, lanes) >= enough:
                kept = trial
        threshold = tl.maximum(threshold, _number(kept))
    place = (choices + tl.load(rows + index).to(tl.int64) * 4 + 2).to(tl.pointer_type(tl.float32)) + 1
    tl.store(place, tl.where(num_there > 0, tl.maximum(tl.load(place), threshold), tl.load(place)))


@triton.jit
def _some(own, start, size, lanes):
    """What is no number takes no part."""
    found = tl.load(own + start + lanes, mask=start + lanes < size, other=_MINUS_INFINITY)
    return tl.where(found > _MINUS_INFINITY, found, _MINUS_INFINITY)


@triton.jit
def _rank(x):
    """Whole numbers in the order of the floats."""
    bits = x.to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)


@triton.jit
def _number(rank):
    """The float of a rank."""
    bits = rank.to(tl.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _count(own, size, least, lanes):
    total = lanes * 0
    for start in range(0, size, lanes.shape[0]):
        found = _some(own, start, size, lanes)
        total += ((_rank(found) >= least) & (found > _MINUS_INFINITY)).to(tl.int32)
    return tl.sum(total, axis=0)


@triton.jit
def _mass(own, size, least, largest, lanes):
    total = lanes.to(tl.float32) * 0.0
    for start in range(0, size, lanes.shape[0]):
        found = _some(own, start, size, lanes)
        total += tl.where(_rank(found) >= least, tl.exp(found - largest), 0.0)
    return tl.sum(total, axis=0)
