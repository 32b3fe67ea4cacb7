"""Sums over bins that forget: the memory of everything that is learned online here."""

from __future__ import annotations

from collections.abc import Sequence

from contracts.errors import InvalidArgument

__all__ = ["FadingSums"]

_LARGEST_UNIT = 1e100  # far below where float64 overflows, far above what any weight needs in precision


class FadingSums:
    """Columns of sums, [num_columns][num_bins], in which an observation of n observations ago weighs (1 - 1/horizon)^n.

    Every observation ages all bins, also those it does not fall into: what has not been seen for long is not known any
    more. To make that O(1), old sums are not made smaller but new observations larger, and reading divides by the
    current unit. With an infinite horizon nothing is forgotten.

    Adding the sums of another instance equals having observed both streams, each with its own ages; without
    forgetting, exactly, for sums have no order.
    """

    __slots__ = ("_columns", "_growth", "_unit", "horizon")

    def __init__(self, *, num_columns: int, num_bins: int, horizon: float) -> None:
        if not horizon > 1.0:  # NaN fails this too
            raise InvalidArgument(f"horizon is {horizon}; it is a number of observations above 1, or infinite")
        self.horizon = horizon
        self._growth = 1.0 / (1.0 - 1.0 / horizon)
        self._unit = 1.0
        self._columns = [[0.0] * num_bins for _ in range(num_columns)]

    def add(self, index: int, amounts: Sequence[float]) -> None:
        """One observation in one bin: an amount for each column."""
        self._unit *= self._growth
        for column, amount in zip(self._columns, amounts, strict=True):
            column[index] += self._unit * amount
        if self._unit > _LARGEST_UNIT:
            self._columns, self._unit = self.columns(), 1.0

    def columns(self) -> list[list[float]]:
        """The sums as of now, [num_columns][num_bins]."""
        return [[amount / self._unit for amount in column] for column in self._columns]

    def merge(self, columns: Sequence[Sequence[float]]) -> None:
        """Adds the sums of another instance of the same shape."""
        self._columns = [
            [mine + theirs for mine, theirs in zip(column, other, strict=True)]
            for column, other in zip(self.columns(), columns, strict=True)
        ]
        self._unit = 1.0
