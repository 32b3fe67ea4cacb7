"""Keys and values that are to be moved before a step, in as few launches as they allow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

__all__ = ["moves"]

Array = np.ndarray[Any, np.dtype[Any]]


def moves(
    copies: Array,  # [groups of (count, sources.., targets..)]: later groups may read what earlier ones wrote
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Sources and targets, [n] each, to be moved one pair after another; of one pair all is read before any is written.

    Groups are joined up to the first that reads or writes what one of them writes. Most are of different sequences:

    >>> [(sources.tolist(), targets.tolist()) for sources, targets in moves(np.array([1, 40, 3, 1, 50, 4, 1, 4, 9]))]
    [([40, 50], [3, 4]), ([4], [9])]
    """
    sources, targets, written = list[int](), list[int](), set[int]()
    numbers, at = copies.tolist(), 0
    while at < len(numbers):
        first, at = at + 1, at + 1 + 2 * numbers[at]
        middle = (first + at) // 2
        new_sources, new_targets = numbers[first:middle], numbers[middle:at]
        if not written.isdisjoint(new_sources) or not written.isdisjoint(new_targets):
            yield torch.tensor(sources), torch.tensor(targets)
            sources, targets, written = [], [], set()
        sources += new_sources
        targets += new_targets
        written.update(new_targets)
    if sources:
        yield torch.tensor(sources), torch.tensor(targets)
