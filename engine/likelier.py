"""Between layers: how many tokens a row would like better than a given one, were this layer the last."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.host_copy import to_host
from engine.model import head_logits
from engine.weights import Weights
from kernels.pinned import to_device
from kernels.pruning import count_larger

__all__ = ["num_likelier"]


def num_likelier(
    weights: Weights,
    residual: torch.Tensor,  # [rows, hidden] float32
    rows: NDArray[np.int64],  # [n]
    tokens: NDArray[np.int64],  # [n]
    *,
    num_real_tokens: int,
) -> NDArray[np.int64]:
    """For each pair of a row and a token: [n]. Rows and logits stay where they are; the counts come in one copy."""
    asked, places = np.unique(rows, return_inverse=True)
    logits = head_logits(weights, residual, _there(asked, residual))[:, :num_real_tokens]
    row_of, token_of = _there(np.stack([places.reshape(-1), tokens]), residual)
    (counts,) = to_host([count_larger(logits, row_of, logits[row_of, token_of])[:, None]])
    return counts[:, 0].long().numpy()


def _there(numbers: NDArray[Any], residual: torch.Tensor) -> torch.Tensor:
    return to_device(torch.from_numpy(numbers), residual.device)
