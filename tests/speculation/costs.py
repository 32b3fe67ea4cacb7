"""Shapes of step costs for tests: flat to some rows and then linear, with stairs, with context."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Steps"]


@dataclass(frozen=True, kw_only=True)
class Steps:
    """`stair` rounds the rows above the flat part up to a multiple, as tiles of a kernel do."""

    base_s: float
    flat_rows: int
    row_s: float
    stair: int = 1
    key_s: float = 0.0

    def cost_s(self, num_rows: float, num_context: float) -> float:
        return float(self.costs_s(np.array([num_rows]), np.array([num_context]))[0])

    def costs_s(
        self,
        num_rows: NDArray[np.float64],  # [n]
        num_context: NDArray[np.float64],  # [n]
    ) -> NDArray[np.float64]:
        above = np.ceil(np.maximum(num_rows - self.flat_rows, 0.0) / self.stair) * self.stair
        costs: NDArray[np.float64] = self.base_s + above * self.row_s + num_context * self.key_s
        return costs
