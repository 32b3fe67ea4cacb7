"""What early pruning does on the device: how many logits are larger than a node's, and moving together who stays."""

from __future__ import annotations

import torch

from kernels import gpu
from kernels.checks import check_tensor

__all__ = ["compact_rows", "compact_rows_reference", "count_larger", "count_larger_reference"]


def count_larger(
    logits: torch.Tensor,  # [rows, size] float32: one shard of the vocabulary
    rows: torch.Tensor,  # [n] integers
    values: torch.Tensor,  # [n] float32
) -> torch.Tensor:
    """For each i how many of logits[rows[i]] are larger than values[i]: int32 [n]. Shards' counts add up.

    >>> logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 0.0, 5.0]])
    >>> count_larger(logits, torch.tensor([0, 1, 1]), torch.tensor([1.0, 0.0, 5.0]))
    tensor([2, 1, 0], dtype=torch.int32)
    """
    check_tensor("logits", logits, ("rows", "size"), torch.float32, lies="in rows")
    check_tensor("rows", rows, ("n",), torch.int64, torch.int32)
    check_tensor("values", values, (rows.shape[0],), torch.float32)
    if gpu.runs(logits):
        from kernels.gpu.pruning import count_larger as on_gpu

        return on_gpu(logits, rows, values)
    return count_larger_reference(logits, rows, values)


def count_larger_reference(
    logits: torch.Tensor,  # [rows, size] float32
    rows: torch.Tensor,  # [n] integers
    values: torch.Tensor,  # [n] float32
) -> torch.Tensor:
    """The plain meaning. Row by row: taking the rows out of a large vocabulary takes longer than comparing them."""
    counts = [torch.count_nonzero(logits[row] > value) for row, value in zip(rows.tolist(), values, strict=True)]
    return torch.stack(counts).int() if counts else torch.zeros(0, dtype=torch.int32, device=logits.device)


def compact_rows(
    x: torch.Tensor,  # [rows, size]
    keep: torch.Tensor,  # [rows] bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The rows that stay, in their order, at the front; their numbers; and how many they are.

    All of fixed size, so that the host need not know the number: [rows, size] with zeros behind, int32 [rows] with -1
    behind, int32 [1].

    >>> compact_rows(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([False, True, True]))
    (tensor([[2.],
            [3.],
            [0.]]), tensor([ 1,  2, -1], dtype=torch.int32), tensor([2], dtype=torch.int32))
    """
    check_tensor("x", x, ("rows", "size"))
    check_tensor("keep", keep, (x.shape[0],), torch.bool)
    if gpu.runs(x):
        from kernels.gpu.pruning import compact_rows as on_gpu

        return on_gpu(x, keep)
    return compact_rows_reference(x, keep)


def compact_rows_reference(
    x: torch.Tensor,  # [rows, size]
    keep: torch.Tensor,  # [rows] bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The plain meaning."""
    staying = torch.nonzero(keep).flatten()
    kept, numbers = torch.zeros_like(x), torch.full(keep.shape, -1, dtype=torch.int32, device=x.device)
    kept[: staying.shape[0]] = x[staying]
    numbers[: staying.shape[0]] = staying.int()
    return kept, numbers, keep.sum(dtype=torch.int32)[None]
