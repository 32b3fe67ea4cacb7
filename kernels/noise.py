"""Shared noise, and the choice it makes. This file is the definition; other forms must give the same bits.

The noise of a token is Gumbel noise from a counter-based generator: Philox 4x32 with ten rounds, keyed by the request's
seed, with counter (token / 4, position low, position high, 0); word token % 4 of the result serves the token. Anyone
who knows (seed, position, token) has the noise of that token without computing any other, so a vocabulary shard
computes its own part only, and a drafter on another machine shares it with the target without a message.

The 32 bits become -ln(-ln(u)) by integer operations and single float32 additions and multiplications in a fixed order,
never fused: IEEE arithmetic then gives the same bits on every device. The logarithm is a polynomial good to about one
unit in the last place. It does not matter that it is not the best: the noise is what this file says, and its
distribution differs from Gumbel's by less than 1e-6. Both tails are kept: near u = 1 the distance to one comes from the
complement of the bits and is never formed by subtraction.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kernels import gpu, native
from kernels.checks import check_tensor

__all__ = [
    "Choice",
    "check_logits",
    "choose",
    "choose_reference",
    "gumbel",
    "log_sum",
    "log_sum_reference",
    "native_choices",
    "noise",
    "noise_reference",
    "philox",
]

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_BITS_OF_SQRT_HALF = 0x3F3504F3
_LOG_POLYNOMIAL = (
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
    -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How one row of logits becomes a token: argmax over logits * inverse_temperature + noise."""

    seed: int = 0
    position: int = 0
    inverse_temperature: float = 1.0
    noisy: bool = False
    threshold: float = float("-inf")
    """Scaled logits below it do not take part (top-k, top-p and min-p are thresholds)."""


def noise(seed: int, position: int, first: int, last: int) -> torch.Tensor:
    """Noise of tokens first..last-1 at a position: float32 [last - first] on the CPU.

    A part is the same alone as in the whole:

    >>> noise(1, 2, 0, 4)
    tensor([ 2.2426, -0.8965, -1.9201, -0.0465])
    >>> noise(1, 2, 2, 4)
    tensor([-1.9201, -0.0465])
    """
    if not 0 <= first <= last:
        raise ValueError(f"noise is of tokens first..last-1 with 0 <= first <= last, got first {first}, last {last}")
    library = native.library()
    if library is None:
        return noise_reference(seed, position, first, last)
    aligned = first - first % 4
    out = torch.empty(last - aligned, dtype=torch.float32)
    library.specfleet_noise(seed, position, aligned, last, out.data_ptr())
    return out[first - aligned :]


def noise_reference(seed: int, position: int, first: int, last: int, device: str = "cpu") -> torch.Tensor:
    """The definition: float32 [last - first]."""
    counters = torch.arange(first // 4, (last + 3) // 4, dtype=torch.int64, device=device)
    words = philox(counters, (position & _MASK, position >> 32, 0), (seed & _MASK, seed >> 32))
    start = first - first // 4 * 4
    return gumbel(words.flatten()[start : start + last - first])


def philox(
    counters: torch.Tensor,  # [n] int64, below 2^32: the first word of each counter
    other_words: tuple[int, int, int],
    key: tuple[int, int],
) -> torch.Tensor:
    """Philox 4x32-10: [n, 4] int64 holding unsigned 32-bit words.

    One of the answers that its authors publish:

    >>> [f"{word:08x}" for word in philox(torch.tensor([0]), (0, 0, 0), (0, 0))[0].tolist()]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    check_tensor("counters", counters, ("n",), torch.int64, lies="anyhow")
    c0 = counters
    c1, c2, c3 = (torch.full_like(counters, word) for word in other_words)
    k0, k1 = key
    for _ in range(_ROUNDS):
        a, b = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]  # wrap around as 64-bit words; the bits are right
        c0, c1 = ((b >> 32) & _MASK) ^ c1 ^ k0, b & _MASK
        c2, c3 = ((a >> 32) & _MASK) ^ c3 ^ k1, a & _MASK
        k0, k1 = (k0 + _KEY_STEPS[0]) & _MASK, (k1 + _KEY_STEPS[1]) & _MASK
    return torch.stack([c0, c1, c2, c3], dim=-1)


def gumbel(
    bits: torch.Tensor,  # [n] int64 holding unsigned 32-bit words
) -> torch.Tensor:
    """-ln(-ln(u)) with u = (bits + 1/2) / 2^32, as float32 [n].

    The least, the middle (-ln(ln 2)) and the largest:

    >>> gumbel(torch.tensor([0, 2**31, 2**32 - 1]))
    tensor([-3.1300,  0.3665, 22.8739])
    """
    check_tensor("bits", bits, ("n",), torch.int64, lies="anyhow")
    below = (bits.float() + 0.5) * 2.0**-32
    above = ((_MASK - bits).float() + 0.5) * 2.0**-32
    z, e = _split(below)
    near_one = above < 0.25
    z, e = torch.where(near_one, -above, z), torch.where(near_one, torch.zeros_like(e), e)
    exponential = -_log(z, e)
    return -_log(*_split(exponential))


def _split(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x = (1 + z) * 2^e with 1 + z in [sqrt(1/2), sqrt(2)), by its bits."""
    shifted = x.view(torch.int32) - _BITS_OF_SQRT_HALF
    mantissa = (shifted & 0x007FFFFF) + _BITS_OF_SQRT_HALF
    return mantissa.view(torch.float32) - 1.0, (shifted >> 23).float()


def _log(z: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
    """ln((1 + z) * 2^e)."""
    p = torch.full_like(z, _LOG_POLYNOMIAL[0])
    for coefficient in _LOG_POLYNOMIAL[1:]:
        p = p * z + coefficient
    square = z * z
    r = p * z * square
    r = r + e * -2.12194440e-4
    r = r + square * -0.5
    r = z + r
    return r + e * 0.693359375


def choose(
    logits: torch.Tensor,  # [rows, size] float32: tokens first_token.. of the vocabulary
    choices: Sequence[Choice],
    *,
    num_top: int = 1,
    first_token: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The num_top largest of scaled logits plus noise: values float32 and tokens int64, both [rows, num_top].

    Best first, equal values by smaller token; where fewer tokens take part, the value is -inf and the token -1.

    >>> values, tokens = choose(torch.tensor([[0.5, 2.0, 1.0]]), [Choice()], num_top=2)
    >>> tokens
    tensor([[1, 2]])
    """
    if num_top < 1:
        raise ValueError(f"num_top must be at least 1, got {num_top}")
    check_logits(logits, len(choices), first_token)
    if gpu.runs(logits):
        from kernels.gpu.noise import choose as on_gpu

        return on_gpu(logits, choices, num_top=num_top, first_token=first_token)
    library = native.library() if logits.device.type == "cpu" else None
    if library is None:
        return choose_reference(logits, choices, num_top=num_top, first_token=first_token)
    rows, size = logits.shape
    values = torch.empty(rows, num_top, dtype=torch.float32)
    tokens = torch.empty(rows, num_top, dtype=torch.int64)
    logits = logits.contiguous()
    library.specfleet_choose(
        native.num_threads(),
        logits.data_ptr(),
        rows,
        size,
        first_token,
        native_choices(choices),
        num_top,
        values.data_ptr(),
        tokens.data_ptr(),
    )
    return values, tokens


def native_choices(choices: Sequence[Choice]) -> ctypes.Array[native.Choice]:
    """As the library reads them.

    >>> native_choices([Choice(position=7)])[0].position
    7
    """
    return (native.Choice * len(choices))(
        *(native.Choice(c.seed, c.position, c.inverse_temperature, c.threshold, c.noisy, 0) for c in choices)
    )


def choose_reference(
    logits: torch.Tensor,  # [rows, size] float32
    choices: Sequence[Choice],
    *,
    num_top: int = 1,
    first_token: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The plain meaning of `choose`."""
    rows, size = logits.shape
    values = torch.full((rows, num_top), float("-inf"))
    tokens = torch.full((rows, num_top), -1, dtype=torch.int64)
    for row, choice in enumerate(choices):
        scaled = logits[row].cpu() * torch.tensor(choice.inverse_temperature, dtype=torch.float32)
        noisy = scaled
        if choice.noisy:
            noisy = scaled + noise_reference(choice.seed, choice.position, first_token, first_token + size)
        allowed = (scaled >= choice.threshold) & (noisy > float("-inf"))
        candidates = torch.nonzero(allowed).flatten()
        order = torch.sort(noisy[candidates], descending=True, stable=True).indices[:num_top]
        values[row, : len(order)] = noisy[candidates[order]]
        tokens[row, : len(order)] = candidates[order] + first_token
    return values, tokens


def log_sum(
    x: torch.Tensor,  # [rows, size] float32
) -> torch.Tensor:
    """Parts of the log-sum-exp of each row: [rows, 2], the largest value and the sum of exp(x - largest).

    A row of minus infinities (a shard with all its tokens masked) has the sum 0, so that it adds nothing elsewhere.

    >>> log_sum(torch.tensor([[2.0, 2.0, 1.0]]))
    tensor([[2.0000, 2.3679]])
    """
    check_tensor("x", x, ("rows", "size"), torch.float32, lies="anyhow")
    if x.shape[1] == 0:
        raise ValueError("the largest of no numbers is none: x must have at least one column")
    if gpu.runs(x):
        from kernels.gpu.noise import log_sum as on_gpu

        return on_gpu(x)
    library = native.library() if x.device.type == "cpu" else None
    if library is None:
        return log_sum_reference(x)
    parts = torch.empty(x.shape[0], 2, dtype=torch.float32)
    x = x.contiguous()
    library.specfleet_log_sum(native.num_threads(), x.data_ptr(), x.shape[0], x.shape[1], parts.data_ptr())
    return parts


def log_sum_reference(
    x: torch.Tensor,  # [rows, size] float32
) -> torch.Tensor:
    """The plain meaning of `log_sum`."""
    largest = x.max(dim=-1).values
    sums = torch.exp(x - largest[:, None]).sum(-1)
    return torch.stack([largest, torch.where(largest == float("-inf"), 0.0, sums)], dim=-1)


def check_logits(logits: torch.Tensor, num_choices: int, first_token: int) -> None:
    """Refuses what is no shard of the vocabulary with a row for each choice."""
    check_tensor("logits", logits, (num_choices, "size"), torch.float32, lies="anyhow")
    if logits.shape[1] == 0 or first_token < 0:
        raise ValueError(
            f"a shard has at least one token and begins at 0 or above, "
            f"got {logits.shape[1]} tokens beginning at {first_token}"
        )
