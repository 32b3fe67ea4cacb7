"""A median, and how far off it may be: from resampling what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from contracts.errors import InvalidArgument

__all__ = ["Estimate", "bootstrapped", "ratio"]

_RESAMPLES = 10_000
_BOUNDS = (2.5, 97.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """`low` and `high` hold 95 % of the medians that resampling gives."""

    median: float
    low: float
    high: float


def bootstrapped(values: Sequence[float]) -> Estimate:
    """The same for the same values: chance has a fixed seed."""
    if not values:
        raise InvalidArgument("there are no values to take a median of; measure at least one alternation")
    of = np.asarray(values, dtype=np.float64)
    drawn = np.random.default_rng(0).integers(0, len(of), size=(_RESAMPLES, len(of)))
    low, high = np.percentile(np.median(of[drawn], axis=1), _BOUNDS)
    return Estimate(median=float(np.median(of)), low=float(low), high=float(high))


def ratio(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Of first over second, pair by pair: what a machine does to both at a time cancels out."""
    return bootstrapped([a / b for a, b in zip(first, second, strict=True)])
