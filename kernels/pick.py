"""The choice of a row with its probability: penalties, temperature, threshold, shared noise, argmax, log-probability.

One shard of the vocabulary at a time. The log-probability is under the logits as they came, before penalties and
temperature, and within the shard; the normalisers join shards: over all of them, the log-probability is the one found
here, plus the shard's normaliser, minus the logarithm of the sum of exp(normaliser) over the shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kernels import gpu
from kernels.noise import Choice, choose, choose_reference, log_sum, log_sum_reference

__all__ = ["Edit", "Picked", "pick", "pick_reference"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A penalty on one token of one row: a positive logit is divided by `factor`, another multiplied; then `addend`.

    With a factor above one that is the repetition penalty, away from being chosen whatever the sign.
    """

    row: int
    token: int
    factor: float = 1.0
    addend: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Picked:
    """What each row chose in this shard."""

    values: torch.Tensor  # [rows] float32: scaled logit plus noise; -inf where no token takes part
    tokens: torch.Tensor  # [rows] int64; -1 where no token takes part
    logprobs: torch.Tensor  # [rows] float32; -inf where no token takes part
    log_normalisers: torch.Tensor  # [rows] float32: log of the sum of exp(logits)


def pick(
    logits: torch.Tensor,  # [rows, size] float32: tokens first_token.. of the vocabulary
    choices: Sequence[Choice],
    edits: Sequence[Edit] = (),
    *,
    first_token: int = 0,
) -> Picked:
    """Edits of tokens outside the shard are left to the other shards. On a GPU the noise never lies in memory.

    Token 1 is likelier, but was said before:

    >>> picked = pick(torch.tensor([[1.0, 2.0]]), [Choice()], [Edit(row=0, token=1, factor=4.0)])
    >>> picked.values, picked.tokens, picked.logprobs
    (tensor([1.]), tensor([0]), tensor([-1.3133]))
    """
    _check(logits, choices, edits)
    if gpu.runs(logits):
        from kernels.gpu.pick import pick as on_gpu

        values, tokens, raw, sums = on_gpu(logits, choices, edits, first_token=first_token)
        return _with_logprobs(values, tokens, raw, sums)
    values, tokens = choose(_edited(logits, edits, first_token), choices, first_token=first_token)
    return _with_logprobs(values, tokens, _logits_of(logits, tokens, first_token), log_sum(logits))


def pick_reference(
    logits: torch.Tensor,  # [rows, size] float32
    choices: Sequence[Choice],
    edits: Sequence[Edit] = (),
    *,
    first_token: int = 0,
) -> Picked:
    """The plain meaning."""
    values, tokens = choose_reference(_edited(logits, edits, first_token), choices, first_token=first_token)
    return _with_logprobs(values, tokens, _logits_of(logits, tokens, first_token), log_sum_reference(logits))


def _edited(
    logits: torch.Tensor,  # [rows, size] float32
    edits: Sequence[Edit],
    first_token: int,
) -> torch.Tensor:
    """A copy with the edits of this shard; several of one token happen in their order."""
    edited = logits.clone()
    for edit in edits:
        column = edit.token - first_token
        if 0 <= column < logits.shape[1]:
            found = edited[edit.row, column]
            edited[edit.row, column] = torch.where(found > 0, found / edit.factor, found * edit.factor) + edit.addend
    return edited


def _logits_of(
    logits: torch.Tensor,  # [rows, size]
    tokens: torch.Tensor,  # [rows, 1]; -1 for none
    first_token: int,
) -> torch.Tensor:
    found = logits.gather(1, (tokens - first_token).clamp(min=0))
    return torch.where(tokens >= 0, found, float("-inf"))


def _with_logprobs(
    values: torch.Tensor,  # [rows, 1]
    tokens: torch.Tensor,  # [rows, 1]
    raw: torch.Tensor,  # [rows, 1]: the choices' logits as they came
    sums: torch.Tensor,  # [rows, 2] of log_sum
) -> Picked:
    log_normalisers = sums[:, 0] + sums[:, 1].log()
    return Picked(
        values=values[:, 0],
        tokens=tokens[:, 0],
        logprobs=torch.where(tokens[:, 0] >= 0, raw[:, 0] - log_normalisers, float("-inf")),
        log_normalisers=log_normalisers,
    )


def _check(logits: torch.Tensor, choices: Sequence[Choice], edits: Sequence[Edit]) -> None:
    if logits.dim() != 2 or logits.dtype != torch.float32 or logits.shape[0] != len(choices):
        raise ValueError(
            f"logits must be float32 [{len(choices)}, size], a row for each choice; "
            f"got {logits.dtype} {tuple(logits.shape)}"
        )
    for edit in edits:
        if not 0 <= edit.row < len(choices):
            raise ValueError(f"an edit is of row {edit.row}, but there are rows 0 to {len(choices) - 1}")
        if not edit.factor > 0:
            raise ValueError(f"the factor of an edit must be above 0, got {edit.factor} for token {edit.token}")
