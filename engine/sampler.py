"""From logits to tokens: processors, then argmax with shared noise, over any number of vocabulary shards.

The order is fixed: repetition penalty and biases, allowed tokens, temperature, top-k, top-p, min-p, noise, argmax.
Top-k, top-p and min-p all come down to one threshold on the scaled logits, so only candidates and sums cross between
ranks, never whole logits: each rank contributes its best few and its sum of exponentials, and all compute the same
threshold from them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from engine.host_copy import to_host
from engine.message import StepMessage
from engine.ranks import Ranks
from engine.topology import Shard
from kernels import gpu
from kernels.noise import Choice, choose, log_sum
from kernels.pick import Allowed, Edits, pick, scaled_logits

__all__ = ["Sampled", "SampledNumbers", "choices_of", "sample"]

# Enough for top-k and top-p as people use them; where it is not, it grows until it is.
_FIRST_NUM_CANDIDATES = 64

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampled:
    """The num_top best tokens of each sampled row, best first; the first is the choice."""

    values: torch.Tensor  # [rows, num_top] float32: scaled logit plus noise
    tokens: torch.Tensor  # [rows, num_top] int64; -1 where fewer tokens take part
    logprobs: torch.Tensor | None  # [rows, num_top] float64: under the unprocessed distribution
    likeliest: tuple[torch.Tensor, torch.Tensor] | None  # [rows, n] log-probabilities and tokens, unprocessed

    def numbers(self) -> SampledNumbers:
        """The same as plain numbers, all at once: reading a tensor element by element takes longer than a row."""
        if gpu.runs(self.values):
            return self._fetched()
        return SampledNumbers(
            values=self.values.tolist(),
            tokens=self.tokens.tolist(),
            logprobs=None if self.logprobs is None else self.logprobs.tolist(),
            likeliest=None if self.likeliest is None else (self.likeliest[0].tolist(), self.likeliest[1].tolist()),
        )

    def _fetched(self) -> SampledNumbers:
        """From a GPU, in one piece."""
        parts = {"values": self.values, "tokens": self.tokens}
        if self.logprobs is not None:
            parts["logprobs"] = self.logprobs
        if self.likeliest is not None:
            parts["likeliest"], parts["likeliest_tokens"] = self.likeliest
        here = dict(zip(parts, to_host(list(parts.values())), strict=True))
        return SampledNumbers(
            values=here["values"].tolist(),
            tokens=here["tokens"].long().tolist(),
            logprobs=None if self.logprobs is None else here["logprobs"].tolist(),
            likeliest=None
            if self.likeliest is None
            else (here["likeliest"].tolist(), here["likeliest_tokens"].long().tolist()),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledNumbers:
    """`Sampled` as lists of its rows."""

    values: list[list[float]]
    tokens: list[list[int]]
    logprobs: list[list[float]] | None
    likeliest: tuple[list[list[float]], list[list[int]]] | None


def sample(
    logits: torch.Tensor,  # [rows, vocabulary shard] float32
    message: StepMessage,
    ranks: Ranks,
    shard: Shard,
    *,
    num_real_tokens: int,
) -> Sampled:
    """One choice per row as the message says; the same on every rank."""
    first = shard.vocabulary.start
    if shard.vocabulary.stop > num_real_tokens:  # the model's vocabulary may be padded past the tokenizer's
        logits[:, max(num_real_tokens - first, 0) :] = -math.inf
    if gpu.runs(logits):
        return _sample_on_gpu(logits, message, ranks, shard)
    raw = logits = logits.cpu() if logits.is_cuda else logits  # without Triton a GPU chooses nothing
    if message.edits.size or message.masked.size:
        logits = logits.clone()
        _apply_edits(logits, message, shard)
        _apply_masks(logits, message, shard)
    thresholds: dict[int, float] = {}
    if message.is_limited:
        limited = _limited_rows(message)
        inverse = torch.from_numpy((1.0 / message.settings[limited, 0]).astype(np.float32))
        scaled = logits[torch.from_numpy(limited)] * inverse[:, None]
        thresholds = _thresholds(scaled, limited, message, ranks, shard)
    values, tokens = choose(logits, choices_of(message, thresholds), num_top=message.num_top, first_token=first)
    if ranks.size == 1 and not message.wants_logprobs:
        return Sampled(values=values, tokens=tokens, logprobs=None, likeliest=None)
    picked = raw.gather(1, (tokens - first).clamp(min=0))
    merged = _merge(ranks, values, tokens, picked)
    return (
        _with_logprobs(raw, log_sum(raw), merged, message, ranks, first) if message.wants_logprobs else _plain(merged)
    )


def _sample_on_gpu(
    logits: torch.Tensor,  # [rows, vocabulary shard] float32
    message: StepMessage,
    ranks: Ranks,
    shard: Shard,
) -> Sampled:
    """The same where the logits lie: a group of ranks with limits exchanges candidates through the host, nobody else
    waits for the device before all is chosen."""
    first, choices, limits = shard.vocabulary.start, choices_of(message), None
    edits = Edits(places=message.edits, values=message.edit_values)
    allowed = Allowed(rows=message.masked, bits=message.masks) if message.masked.size else Allowed.all()
    if message.is_limited and ranks.size == 1:
        greedy = message.settings[:, :1] <= 0
        limits = np.where(greedy, (0.0, 1.0, 0.0), message.settings[:, 1:])
    elif message.is_limited:
        limited = _limited_rows(message)
        rows = limited.tolist()
        scaled = scaled_logits(logits, choices, rows, edits=edits, allowed=allowed, first_token=first)
        choices = choices_of(message, _thresholds(scaled, limited, message, ranks, shard))
    num_top = message.num_top
    found = pick(logits, choices, edits=edits, allowed=allowed, limits=limits, num_top=num_top, first_token=first)
    merged = _merge(ranks, found.values, found.tokens, found.logits)
    return (
        _with_logprobs(logits, found.masses, merged, message, ranks, first)
        if message.wants_logprobs
        else _plain(merged)
    )


def choices_of(message: StepMessage, thresholds: Mapping[int, float] = MappingProxyType({})) -> list[Choice]:
    """How each row chooses; `thresholds` are those of the limited rows."""
    return [
        Choice(
            seed=seed,
            position=position,
            inverse_temperature=1.0 / temperature if temperature > 0 else 1.0,
            noisy=temperature > 0,
            threshold=thresholds.get(row, -math.inf),
        )
        for row, (seed, position, temperature) in enumerate(
            zip(message.seeds.tolist(), message.positions.tolist(), message.settings[:, 0].tolist(), strict=True)
        )
    ]


_Merged = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Values, tokens and unprocessed logits of the best [rows, num_top] of all ranks."""


def _plain(merged: _Merged) -> Sampled:
    return Sampled(values=merged[0], tokens=merged[1], logprobs=None, likeliest=None)


def _with_logprobs(
    raw: torch.Tensor,  # [rows, vocabulary shard]
    masses: torch.Tensor,  # [rows, 2] of `log_sum`
    merged: _Merged,
    message: StepMessage,
    ranks: Ranks,
    first_token: int,
) -> Sampled:
    normaliser = _log_normaliser(masses, ranks)[:, None]
    plain = [Choice()] * raw.shape[0]
    best, best_tokens = choose(raw, plain, num_top=message.num_likeliest, first_token=first_token)
    best, best_tokens, _ = _merge(ranks, best, best_tokens, best)
    likeliest = best.double() - normaliser, best_tokens
    values, tokens, logits = merged
    return Sampled(values=values, tokens=tokens, logprobs=logits.double() - normaliser, likeliest=likeliest)


def _apply_edits(
    logits: torch.Tensor,  # [rows, vocabulary shard], changed in place
    message: StepMessage,
    shard: Shard,
) -> None:
    """Repetition penalty (a factor, away from being chosen whatever the sign), then the sum of additive ones."""
    held = (message.edits[:, 1] >= shard.vocabulary.start) & (message.edits[:, 1] < shard.vocabulary.stop)
    if not held.any():
        return
    rows = torch.from_numpy(message.edits[held, 0].copy())
    columns = torch.from_numpy(message.edits[held, 1] - shard.vocabulary.start)
    factors, addends = torch.from_numpy(message.edit_values[held].copy()).unbind(1)
    found = logits[rows, columns]
    logits[rows, columns] = torch.where(found > 0, found / factors, found * factors) + addends


def _apply_masks(
    logits: torch.Tensor,  # [rows, vocabulary shard], changed in place
    message: StepMessage,
    shard: Shard,
) -> None:
    for row, mask in zip(message.masked.tolist(), message.masks, strict=True):
        allowed = np.unpackbits(mask, bitorder="little", count=shard.config.vocab_size)[shard.vocabulary]
        logits[row, torch.from_numpy(allowed == 0)] = -math.inf


def _limited_rows(message: StepMessage) -> Array:
    """Numbers of the rows whose top-k, top-p or min-p is active."""
    temperature, top_k, top_p, min_p = message.settings.T
    return np.flatnonzero((temperature > 0) & ((top_k > 0) | (top_p < 1.0) | (min_p > 0.0)))


def _thresholds(
    scaled: torch.Tensor,  # [limited, vocabulary shard]: the limited rows, edited, masked and scaled
    limited: Array,  # [limited]
    message: StepMessage,
    ranks: Ranks,
    shard: Shard,
) -> dict[int, float]:
    """For each limited row the smallest scaled logit that may be chosen; minus infinity where all may."""
    _, top_k, top_p, min_p = message.settings.T
    thresholds: dict[int, float] = {}
    masses = [part.cpu().double().numpy() for part in ranks.gather(log_sum(scaled))]
    undecided = {int(row): index for index, row in enumerate(limited)}
    num_candidates = max(_FIRST_NUM_CANDIDATES, int(top_k[limited].max()) + 1)
    vocabulary = -(-shard.config.vocab_size // ranks.size)  # of the largest shard
    while undecided:
        count = min(num_candidates, scaled.shape[1])
        is_complete = num_candidates >= vocabulary
        best = torch.full((scaled.shape[0], min(num_candidates, vocabulary)), -math.inf, device=scaled.device)
        best[:, :count] = scaled.topk(count, dim=-1).values
        # [ranks, rows, candidates]
        listed = np.stack([part.cpu().numpy() for part in ranks.gather(best)]).astype(np.float64)
        for row, index in list(undecided.items()):
            found = _threshold(
                np.sort(listed[:, index].flatten())[::-1],
                [(mass[index, 0], mass[index, 1]) for mass in masses],
                known_above=-math.inf if is_complete else float(listed[:, index, -1].max()),
                top_k=int(top_k[row]),
                top_p=float(top_p[row]),
                min_p=float(min_p[row]),
            )
            if found is not None or is_complete:
                thresholds[row] = -math.inf if found is None else found
                del undecided[row]
        num_candidates *= 4
    return thresholds


def _threshold(
    best: Array,  # [candidates] float64, largest first
    masses: list[tuple[float, float]],  # per rank: largest scaled logit, sum of exp(x - largest)
    *,
    known_above: float,
    top_k: int,
    top_p: float,
    min_p: float,
) -> float | None:
    """The threshold of one row, or None where more candidates are needed to know it.

    All tokens above `known_above` are among the candidates; of those at it some may be missing, equals included. So a
    cut is certain only above it, and then it is the same whatever the number of candidates and ranks.
    """
    best = best[best > -math.inf]
    if best.size == 0:
        return None  # not a number among them; the choice finds nothing and says so
    largest = float(best[0])
    threshold = largest + math.log(min_p) if min_p > 0 else -math.inf
    weights = np.exp(best - largest)
    total = sum(mass * math.exp(top - largest) for top, mass in masses if top > -math.inf)
    if top_k > 0:
        last = float(best[min(top_k, best.size) - 1])
        if last <= known_above:
            return None
        threshold = max(threshold, last)
        weights = weights[best >= last]  # equals of the k-th stay too
        total = float(weights.sum())
    if top_p < 1.0:
        enough = np.flatnonzero(np.cumsum(weights) >= top_p * total)
        last = float(best[enough[0] if enough.size else weights.size - 1])
        if last <= known_above:
            return None
        threshold = max(threshold, last)
    return threshold


def _merge(
    ranks: Ranks,
    values: torch.Tensor,  # [rows, num_top] float32
    tokens: torch.Tensor,  # [rows, num_top] int64
    extra: torch.Tensor,  # [rows, num_top] float32
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The best of all ranks' best: by value, then by smaller token; `extra` goes along."""
    if ranks.size == 1:
        return values, tokens, extra
    num_top = values.shape[1]
    both = torch.stack([values.double(), tokens.double(), extra.double()])
    every = torch.cat(ranks.gather(both), dim=2)
    # Ranks hold rising token ranges and each lists its equals by rising token: a stable sort keeps that order.
    order = every[0].sort(dim=1, descending=True, stable=True).indices[:, :num_top]
    values, tokens, extra = (every[i].gather(1, order) for i in range(3))
    return values.float(), tokens.long(), extra.float()


def _log_normaliser(
    masses: torch.Tensor,  # [rows, 2] of `log_sum`
    ranks: Ranks,
) -> torch.Tensor:
    """log(sum(exp(logits))) over the whole vocabulary: [rows] float64."""
    parts = [part.double() for part in ranks.gather(masses)]
    # Not a reduction over a stack: that waits for torch's threads, which are slow to wake where cores are busy.
    largest = functools.reduce(torch.maximum, [part[:, 0] for part in parts])
    total = torch.zeros_like(largest)
    for part in parts:
        total += part[:, 1] * torch.exp(part[:, 0] - largest)
    return largest + total.log()
