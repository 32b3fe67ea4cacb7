"""The choice of a row with its probability: penalties, allowed tokens, temperature, limits, shared noise, argmax.

One shard of the vocabulary at a time. Log-probabilities are under the logits as they came, before penalties and
temperature, and within the shard; the masses join shards: over all of them, a log-probability is the one found here,
plus the shard's normaliser, minus the logarithm of the sum of exp(normaliser) over the shards.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kernels import gpu
from kernels.noise import Choice, check_logits, choose, choose_reference, log_sum, log_sum_reference

__all__ = ["Allowed", "Edits", "Picked", "pick", "pick_reference", "scaled_logits", "scaled_logits_reference"]

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Edits:
    """Penalties, each on one token of one row: a positive logit is divided by the factor, another multiplied by it;
    then the addend is added.

    With a factor above one that is the repetition penalty, away from being chosen whatever the sign.
    """

    places: Array  # [n, 2] integers: row, token
    values: Array  # [n, 2] float32: factor, addend

    @staticmethod
    def of(edits: Sequence[tuple[int, int, float, float]] = ()) -> Edits:
        """From (row, token, factor, addend) each."""
        table = np.array(edits, dtype=np.float64).reshape(-1, 4)
        return Edits(places=table[:, :2].astype(np.int64), values=table[:, 2:].astype(np.float32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """Which tokens of the whole vocabulary some rows may choose: bit t % 8 of byte t / 8 is 1 where token t is."""

    rows: Array  # [m] integers
    bits: Array  # [m, bytes] uint8

    @staticmethod
    def all() -> Allowed:
        """Every row may choose every token."""
        return Allowed(rows=np.zeros(0, np.int32), bits=np.zeros((0, 0), np.uint8))


@dataclass(frozen=True, slots=True, kw_only=True)
class Picked:
    """What each row chose in this shard, best first."""

    values: torch.Tensor  # [rows, num_top] float32: scaled logit plus noise; -inf where no token takes part
    tokens: torch.Tensor  # [rows, num_top] int64; -1 where no token takes part
    logits: torch.Tensor  # [rows, num_top] float32: as they came; -inf where no token takes part
    masses: torch.Tensor  # [rows, 2] float32: the largest logit of the shard, and the sum of exp(logit - largest)

    @property
    def log_normalisers(self) -> torch.Tensor:
        """[rows] float32: log of the sum of exp(logits)."""
        return self.masses[:, 0] + self.masses[:, 1].log()

    @property
    def logprobs(self) -> torch.Tensor:
        """[rows, num_top] float32; -inf where no token takes part."""
        return torch.where(self.tokens >= 0, self.logits - self.log_normalisers[:, None], float("-inf"))


_NO_EDITS = Edits.of()
_ALL_ALLOWED = Allowed.all()


def pick(
    logits: torch.Tensor,  # [rows, size] float32: tokens first_token.. of the vocabulary
    choices: Sequence[Choice],
    *,
    edits: Edits = _NO_EDITS,
    allowed: Allowed = _ALL_ALLOWED,
    limits: Array | None = None,  # [rows, 3]: top-k (0: none), top-p (1: none), min-p (0: none)
    num_top: int = 1,
    first_token: int = 0,
) -> Picked:
    """Edits of tokens outside the shard are left to the other shards. On a GPU the noise never lies in memory, and
    nothing waits for the host.

    Limits are those of the shard, so they mean what they say where it is the whole vocabulary; they come on top of the
    choices' own thresholds, and tokens equal to the last that is kept are kept too.

    Token 1 is likelier, but was said before:

    >>> picked = pick(torch.tensor([[1.0, 2.0]]), [Choice()], edits=Edits.of([(0, 1, 4.0, 0.0)]))
    >>> picked.values, picked.tokens, picked.logprobs
    (tensor([[1.]]), tensor([[0]]), tensor([[-1.3133]]))
    """
    _check(logits, choices, edits, allowed, limits, first_token)
    if num_top < 1:
        raise ValueError(f"num_top must be at least 1, got {num_top}")
    if gpu.runs(logits):
        from kernels.gpu.pick import pick as on_gpu

        values, tokens, raw, masses = on_gpu(
            logits, choices, edits, allowed, limits, num_top=num_top, first_token=first_token
        )
        return Picked(values=values, tokens=tokens, logits=raw, masses=masses)
    edited = _edited(logits, edits, allowed, first_token)
    limited = _limited(edited, choices, limits)
    values, tokens = choose(edited, limited, num_top=num_top, first_token=first_token)
    return Picked(values=values, tokens=tokens, logits=_logits_of(logits, tokens, first_token), masses=log_sum(logits))


def pick_reference(
    logits: torch.Tensor,  # [rows, size] float32
    choices: Sequence[Choice],
    *,
    edits: Edits = _NO_EDITS,
    allowed: Allowed = _ALL_ALLOWED,
    limits: Array | None = None,  # [rows, 3]
    num_top: int = 1,
    first_token: int = 0,
) -> Picked:
    """The plain meaning."""
    edited = _edited(logits, edits, allowed, first_token)
    limited = _limited(edited, choices, limits)
    values, tokens = choose_reference(edited, limited, num_top=num_top, first_token=first_token)
    return Picked(
        values=values, tokens=tokens, logits=_logits_of(logits, tokens, first_token), masses=log_sum_reference(logits)
    )


def scaled_logits(
    logits: torch.Tensor,  # [rows, size] float32: tokens first_token.. of the vocabulary
    choices: Sequence[Choice],
    rows: Sequence[int],
    *,
    edits: Edits = _NO_EDITS,
    allowed: Allowed = _ALL_ALLOWED,
    first_token: int = 0,
) -> torch.Tensor:
    """Some rows as `pick` sees them before limits and noise: [len(rows), size], edited, masked and scaled.

    >>> scaled_logits(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), [Choice(), Choice(inverse_temperature=2.0)], [1])
    tensor([[6., 8.]])
    """
    _check(logits, choices, edits, allowed, None, first_token)
    if rows and not 0 <= min(rows) <= max(rows) < len(choices):
        raise ValueError(f"rows must be 0 to {len(choices) - 1}, got {min(rows)} to {max(rows)}")
    if gpu.runs(logits):
        from kernels.gpu.pick import scaled_logits as on_gpu

        return on_gpu(logits, choices, rows, edits, allowed, first_token=first_token)
    return scaled_logits_reference(logits, choices, rows, edits=edits, allowed=allowed, first_token=first_token)


def scaled_logits_reference(
    logits: torch.Tensor,  # [rows, size] float32
    choices: Sequence[Choice],
    rows: Sequence[int],
    *,
    edits: Edits = _NO_EDITS,
    allowed: Allowed = _ALL_ALLOWED,
    first_token: int = 0,
) -> torch.Tensor:
    """The plain meaning."""
    inverse = torch.tensor([choices[row].inverse_temperature for row in rows], dtype=torch.float32)
    return _edited(logits, edits, allowed, first_token)[list(rows)] * inverse.to(logits.device)[:, None]


def _edited(
    logits: torch.Tensor,  # [rows, size] float32
    edits: Edits,
    allowed: Allowed,
    first_token: int,
) -> torch.Tensor:
    """A copy with the edits of this shard, of which several of one token happen in their order, and what is masked."""
    edited, size = logits.clone(), logits.shape[1]
    for (row, token), (factor, addend) in zip(edits.places.tolist(), edits.values.tolist(), strict=True):
        column = token - first_token
        if 0 <= column < size:
            found = edited[row, column]
            edited[row, column] = torch.where(found > 0, found / factor, found * factor) + addend
    for row, bits in zip(allowed.rows.tolist(), allowed.bits, strict=True):
        may = np.unpackbits(bits, bitorder="little")[first_token : first_token + size]
        edited[row, torch.from_numpy(may == 0).to(logits.device)] = float("-inf")
    return edited


def _limited(
    edited: torch.Tensor,  # [rows, size]
    choices: Sequence[Choice],
    limits: Array | None,  # [rows, 3]
) -> Sequence[Choice]:
    """The choices with what their limits make of their thresholds."""
    if limits is None:
        return choices
    return [
        dataclasses.replace(
            choice, threshold=max(choice.threshold, _threshold(row * choice.inverse_temperature, *limit))
        )
        for choice, row, limit in zip(choices, edited.cpu(), limits.tolist(), strict=True)
    ]


def _threshold(
    scaled: torch.Tensor,  # [size] float32
    top_k: float,
    top_p: float,
    min_p: float,
) -> float:
    """The smallest that may be chosen: above it lie top_k, of these the share top_p, and of the likeliest's chance so
    much."""
    best = scaled[scaled > float("-inf")].sort(descending=True).values.double()
    if best.numel() == 0:
        return float("-inf")
    threshold = float(best[0]) + math.log(min_p) if min_p > 0 else float("-inf")
    if top_k > 0:
        best = best[best >= best[min(int(top_k), best.numel()) - 1]]
        threshold = max(threshold, float(best[-1]))
    if top_p < 1:
        sums = torch.exp(best - best[0]).cumsum(0)
        threshold = max(threshold, float(best[int((sums < top_p * sums[-1]).sum())]))
    return threshold


def _logits_of(
    logits: torch.Tensor,  # [rows, size]
    tokens: torch.Tensor,  # [rows, num_top]; -1 for none
    first_token: int,
) -> torch.Tensor:
    found = logits.gather(1, (tokens - first_token).clamp(min=0))
    return torch.where(tokens >= 0, found, float("-inf"))


def _check(
    logits: torch.Tensor,
    choices: Sequence[Choice],
    edits: Edits,
    allowed: Allowed,
    limits: Array | None,
    first_token: int,
) -> None:
    check_logits(logits, len(choices), first_token)
    count, num_masks = edits.places.shape[0], allowed.rows.shape[0]
    if edits.places.shape != (count, 2) or edits.values.shape != (count, 2):
        raise ValueError(f"edits must be [n, 2] both, got places {edits.places.shape}, values {edits.values.shape}")
    num_bytes = -(-(first_token + logits.shape[1]) // 8)
    if num_masks and (
        allowed.bits.dtype != np.uint8 or allowed.bits.shape[0] != num_masks or allowed.bits.shape[1] < num_bytes
    ):
        raise ValueError(
            f"masks must be uint8 [{num_masks}, at least {num_bytes}], got {allowed.bits.dtype} {allowed.bits.shape}"
        )
    for name, rows in (("an edit", edits.places[:, 0]), ("a mask", allowed.rows)):
        wrong = rows[(rows < 0) | (rows >= len(choices))]
        if wrong.size:
            raise ValueError(f"{name} is of row {wrong[0]}, but there are rows 0 to {len(choices) - 1}")
    wrong = np.flatnonzero(~(edits.values[:, 0] > 0))
    if wrong.size:
        factor, token = edits.values[wrong[0], 0], edits.places[wrong[0], 1]
        raise ValueError(f"the factor of an edit must be above 0, got {factor} for token {token}")
    if limits is not None and limits.shape != (len(choices), 3):
        raise ValueError(f"limits must be [{len(choices)}, 3], a row for each choice; got {limits.shape}")
