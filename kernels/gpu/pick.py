"""Choosing with penalties: the kernels of gpu/noise.py, with edits sorted by the part of the vocabulary they touch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from kernels.gpu.noise import best_of_parts, num_parts, on_device, part_of
from kernels.noise import Choice

if TYPE_CHECKING:
    from kernels.pick import Edit

__all__ = ["pick"]


def pick(
    logits: torch.Tensor,  # [rows, size] float32
    choices: Sequence[Choice],
    edits: Sequence[Edit],
    *,
    first_token: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values, tokens and their logits as they came [rows, 1], and log-sum parts [rows, 2]."""
    device, size = logits.device, logits.shape[1]
    held = [edit for edit in edits if first_token <= edit.token < first_token + size]
    parts = num_parts(size, first_token)
    columns = np.array([edit.token - first_token for edit in held], dtype=np.int32)
    places = np.array([edit.row for edit in held], dtype=np.int64) * parts + part_of(columns, first_token)
    order = np.argsort(places, kind="stable")  # edits of one token stay in their order
    starts = np.searchsorted(places[order], np.arange(len(choices) * parts + 1))
    numbers = np.array([(edit.factor, edit.addend) for edit in held], dtype=np.float32).reshape(-1, 2)
    return best_of_parts(
        logits,
        on_device(choices, device),
        torch.from_numpy(starts.astype(np.int32)).to(device, non_blocking=True),
        (
            torch.from_numpy(columns[order]).to(device, non_blocking=True),
            torch.from_numpy(numbers[order]).to(device, non_blocking=True),
        ),
        num_top=1,
        first_token=first_token,
    )
