"""Isotonic regression: the nondecreasing sequence that is nearest to given values."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["isotonic"]


def isotonic(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Minimises the sum of weights * (fitted - values)^2 over nondecreasing sequences; all weights above zero.

    Pool adjacent violators (Ayer et al., 1955): wherever a block lies below its left neighbour, the two become one
    block at their weighted mean. That is right because in the best fit two neighbours that violate the order are
    equal (otherwise moving them towards each other would be better and still in order), and equal neighbours are best
    at their mean. Each value joins a block once, so the cost is linear.

    >>> isotonic([0.1, 0.6, 0.2, 0.9], [1.0, 1.0, 1.0, 1.0])
    [0.1, 0.4, 0.4, 0.9]
    """
    blocks: list[tuple[float, float, int]] = []  # mean, weight, number of values
    for value, weight in zip(values, weights, strict=True):
        count = 1
        while blocks and blocks[-1][0] > value:
            mean, other, more = blocks.pop()
            total = weight + other
            value = (value * weight + mean * other) / total
            weight, count = total, count + more
        blocks.append((value, weight, count))
    return [mean for mean, _, count in blocks for _ in range(count)]
