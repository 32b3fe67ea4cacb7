"""From a grid with holes and noise to one that is full and rises in both directions."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from speculation.isotonic import isotonic

__all__ = ["monotone_grid"]

_HOLE_WEIGHT = 1e-3  # of a filled hole: enough to have a place in the order, too little to pull at what was measured
_MAX_SWEEPS = 50
_CLOSE = 1e-4  # of the largest: medians of measured times are not as exact


def monotone_grid(
    measured: NDArray[np.float64],  # [num_rows, num_contexts], NaN where nothing was measured
    weights: NDArray[np.float64],  # [num_rows, num_contexts], 0 there; every line has some
) -> NDArray[np.float64]:
    """The grid nearest to what was measured, by weighted squares, among those that fall in neither direction.

    Dykstra's algorithm (Boyle and Dykstra, 1986): project in turns on the grids that rise along rows and on those that
    rise along columns, each time giving back first what the same projection took the last time. It converges to the
    nearest point of both sets (plain alternating projection finds some point of both). One projection is isotonic
    regression of each line. The result is closed by running maxima, so that it is monotone to the last bit.
    """
    holes = np.isnan(measured)
    filled = np.where(holes, _additive(measured, weights, holes), measured)
    pulls = np.where(holes, _HOLE_WEIGHT * weights.max(), np.maximum(weights, 1e-9 * weights.max()))
    grid = filled
    if bool((np.diff(grid, axis=0) < 0.0).any()) or bool((np.diff(grid, axis=1) < 0.0).any()):
        taken_along_rows, taken_along_columns = np.zeros(grid.shape), np.zeros(grid.shape)
        for _ in range(_MAX_SWEEPS):
            before = grid
            half = _rising(grid + taken_along_rows, pulls)
            taken_along_rows = grid + taken_along_rows - half
            grid = _rising((half + taken_along_columns).T, pulls.T).T
            taken_along_columns = half + taken_along_columns - grid
            if float(np.abs(grid - before).max()) <= _CLOSE * float(grid.max()):
                break
    closed: NDArray[np.float64] = np.maximum.accumulate(np.maximum.accumulate(grid, axis=0), axis=1)
    return closed


def _additive(
    measured: NDArray[np.float64],  # [num_rows, num_contexts]
    weights: NDArray[np.float64],  # [num_rows, num_contexts]
    holes: NDArray[np.bool_],  # [num_rows, num_contexts]
) -> NDArray[np.float64]:
    """A guess for holes: one part for rows (the weights are read, the products formed) and one for context (attention),
    each rising, fitted in turns. A guess only: what is measured replaces it."""
    values = np.where(holes, 0.0, measured)
    of_row, of_context = np.zeros(values.shape[0]), np.zeros(values.shape[1])
    row_weights, context_weights = weights.sum(axis=1), weights.sum(axis=0)
    for _ in range(8):
        means = (weights * (values - of_context)).sum(axis=1) / row_weights
        of_row = np.array(isotonic(means.tolist(), row_weights.tolist()))
        means = (weights * (values - of_row[:, None])).sum(axis=0) / context_weights
        of_context = np.array(isotonic(means.tolist(), context_weights.tolist()))
    least = float(measured[~holes].min())
    guess: NDArray[np.float64] = np.maximum(of_row[:, None] + of_context, least)
    return guess


def _rising(
    grid: NDArray[np.float64],  # [lines, points]
    weights: NDArray[np.float64],  # [lines, points]
) -> NDArray[np.float64]:
    """Each line by itself the nearest that rises."""
    return np.array(
        [
            isotonic(line, weight) if any(b < a for a, b in pairwise(line)) else line
            for line, weight in zip(grid.tolist(), weights.tolist(), strict=True)
        ]
    )
