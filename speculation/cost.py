"""What a round costs: measured time over (rows, context), monotone in both.

The table is made of step reports, from probes at the start and from live rounds. FASER (arXiv 2604.20503) fits
piecewise-linear latency models to a profile, SmartSpec (2406.14066) prices speculation by one; this is the same idea
with as few assumptions as possible: more rows or more context never make a round cheaper, and between measured points
time is linear. Steps (flat to 8 rows, then rising) survive in it, because nothing smooth is imposed.

*Robust*: a cell keeps its last samples and counts by their median, so one hiccup changes nothing. *Forgetting*: new
samples replace old ones, and cells not visited for long yield to those that are (`cost_fit` weights). *Outside* what
was measured it is pessimistic: a further row costs at least the average row of the largest round seen, because a table
that is flat as far as it goes would otherwise promise any number of rows for nothing. A probe removes the pessimism.

Context is a step's `num_context`: keys summed over rows.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from statistics import median
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from contracts.errors import InvalidArgument
from contracts.types import StepReport
from speculation.cost_fit import monotone_grid

__all__ = ["MOST", "CostTable", "StepCost", "probe_plan"]

MOST = 2**40
"""Rows and context beyond it are no step of any machine."""


_FEW = 16
_ONE_BY_ONE = 16  # for so few rounds arrays take longer than a loop
_LONGEST_WAIT = 256
_LEAST_WEIGHT = 1e-12  # of what was not seen for millions of rounds: it is the less, and still something to divide by


class StepCost(Protocol):
    """What prices a round: any function that does not fall with rows or context."""

    def cost_s(self, num_rows: float, num_context: float) -> float:
        """Of one round."""
        ...

    def costs_s(
        self,
        num_rows: NDArray[np.float64],  # [n]
        num_context: NDArray[np.float64],  # [n]
    ) -> NDArray[np.float64]:
        """Of n rounds: [n]."""
        ...


class _Cell:
    """The last samples of one neighbourhood of (rows, context)."""

    __slots__ = ("last_seen", "samples")

    def __init__(self, num_samples: int) -> None:
        self.samples: deque[float] = deque(maxlen=num_samples)
        self.last_seen = 0


class CostTable:
    """See the module. Implements `StepCost` once anything was observed (`bool(table)`)."""

    def __init__(self, *, num_samples: int = 15, memory: float = 5000.0, refit_every: int = 16) -> None:
        if num_samples < 1 or refit_every < 1 or not memory >= 1.0:  # NaN fails this too
            raise InvalidArgument(
                f"a cost table has num_samples {num_samples}, memory {memory}, refit_every {refit_every}; "
                "all are 1 or more"
            )
        self.num_samples, self.memory, self.refit_every = num_samples, memory, refit_every
        self.num_observed = 0
        self._cells: dict[tuple[int, int], _Cell] = {}
        self._row_at: dict[int, float] = {}  # where the steps of a label lie on average
        self._context_at: dict[int, float] = {}
        self._num_new = 0
        self._rows: list[float] = []
        self._contexts: list[float] = []
        self._grid: list[list[float]] = []  # [rows][contexts], seconds
        self._row_slope = self._context_slope = 0.0

    def __bool__(self) -> bool:
        return bool(self._cells)

    def points(self) -> Iterator[tuple[float, float, list[float]]]:
        """Mean rows, mean context and samples of every cell, for whoever writes them down."""
        for (row, context), cell in sorted(self._cells.items()):
            at = self._row_at[row], self._context_at[context]
            yield at[0], max(at), list(cell.samples)

    def observe(self, report: StepReport) -> None:
        """A step as it was reported. Left out are steps that pruned rows between layers, which cost less than their
        rows, and those that are not typical."""
        if report.num_rows_pruned == 0 and report.is_typical:
            self.add(report.num_rows, report.num_context, report.elapsed_s)

    def add(self, num_rows: int, num_context: int, elapsed_s: float) -> None:
        """One measured step."""
        if not (1 <= num_rows <= MOST and num_rows <= num_context <= MOST and 0.0 < elapsed_s < math.inf):
            raise InvalidArgument(
                f"a step of {num_rows} rows and {num_context} context took {elapsed_s} s; "
                "it has 1 row or more, a key or more for each, and takes a finite time above 0"
            )
        label = _row_label(num_rows), _context_label(num_context)
        self.num_observed += 1
        _drift(self._row_at, label[0], num_rows)
        _drift(self._context_at, label[1], num_context)
        cell = self._cells.get(label)
        if cell is None:
            cell = self._cells[label] = _Cell(self.num_samples)
            if len(self._cells) <= _FEW:
                self._num_new = self._due_after()  # with so few, each changes much
        cell.samples.append(elapsed_s)
        cell.last_seen = self.num_observed
        self._num_new += 1

    def cost_s(self, num_rows: float, num_context: float) -> float:
        """Expected time of a round."""
        self._refit_if_due()
        row, row_part = _between(self._rows, num_rows)
        column, column_part = _between(self._contexts, num_context)
        low, high = self._grid[row], self._grid[min(row + 1, len(self._rows) - 1)]
        right = min(column + 1, len(self._contexts) - 1)
        below = low[column] + (low[right] - low[column]) * column_part
        above = high[column] + (high[right] - high[column]) * column_part
        cost = below + (above - below) * row_part
        if num_context > self._contexts[-1]:
            cost += (num_context - self._contexts[-1]) * self._context_slope
        if num_rows > self._rows[-1]:
            cost += (num_rows - self._rows[-1]) * max(cost / self._rows[-1], self._row_slope)
        return cost

    def costs_s(
        self,
        num_rows: NDArray[np.float64],  # [n]
        num_context: NDArray[np.float64],  # [n]
    ) -> NDArray[np.float64]:
        """`cost_s` of n rounds at once: [n]."""
        if num_rows.size <= _ONE_BY_ONE:
            pairs = zip(num_rows.tolist(), num_context.tolist(), strict=True)
            return np.array([self.cost_s(rows, context) for rows, context in pairs])
        self._refit_if_due()
        grid, rows, contexts = np.array(self._grid), np.array(self._rows), np.array(self._contexts)
        row, row_part = _all_between(rows, num_rows)
        column, column_part = _all_between(contexts, num_context)
        up, right = np.minimum(row + 1, rows.size - 1), np.minimum(column + 1, contexts.size - 1)
        below = grid[row, column] + (grid[row, right] - grid[row, column]) * column_part
        above = grid[up, column] + (grid[up, right] - grid[up, column]) * column_part
        cost = below + (above - below) * row_part
        cost = cost + np.maximum(num_context - contexts[-1], 0.0) * self._context_slope
        beyond = np.maximum(num_rows - rows[-1], 0.0)
        costs: NDArray[np.float64] = cost + beyond * np.maximum(cost / rows[-1], self._row_slope)
        return costs

    def marginal_s(self, num_rows: float, num_context: float, context_of_row: float) -> float:
        """What one more row with so many keys would add to a round."""
        return self.cost_s(num_rows + 1, num_context + context_of_row) - self.cost_s(num_rows, num_context)

    def _due_after(self) -> int:
        """How many new samples make a fit worth its time: the more there are, the less one more can change."""
        return max(self.refit_every, min(self.num_observed // 4, _LONGEST_WAIT))

    def _refit_if_due(self) -> None:
        if not self._cells:
            raise InvalidArgument("the cost table is empty; run the steps of probe_plan first")
        if self._num_new < self._due_after() and self._grid:
            return
        self._num_new = 0
        row_labels, context_labels = sorted(self._row_at), sorted(self._context_at)
        measured = np.full((len(row_labels), len(context_labels)), np.nan)
        weights = np.zeros(measured.shape)
        row_index = {label: index for index, label in enumerate(row_labels)}
        context_index = {label: index for index, label in enumerate(context_labels)}
        for (row, context), cell in self._cells.items():
            at = row_index[row], context_index[context]
            measured[at] = median(cell.samples)
            freshness = math.exp((cell.last_seen - self.num_observed) / self.memory)
            weights[at] = len(cell.samples) * max(freshness, _LEAST_WEIGHT)
        self._rows = [self._row_at[label] for label in row_labels]
        self._contexts = [self._context_at[label] for label in context_labels]
        rows, contexts = np.array(self._rows), np.array(self._contexts)
        grid = monotone_grid(measured, weights)
        self._grid = grid.tolist()
        # One slope for the whole edge, the steepest: slopes of their own could cross further out.
        self._row_slope = float(((grid[-1] - grid[-2]) / (rows[-1] - rows[-2])).max()) if rows.size > 1 else 0.0
        widest = contexts.size > 1
        self._context_slope = (
            float(((grid[:, -1] - grid[:, -2]) / (contexts[-1] - contexts[-2])).max()) if widest else 0.0
        )


def probe_plan(max_rows: int, max_context_per_row: int) -> list[tuple[int, int]]:
    """Steps to run at the start, as (rows, keys of each row): the corners first, so that whatever was run of it when
    there was no more time makes a usable table."""
    rows = sorted({max_rows, *(row for row in (1, 2, 4, 8, 12, 16, 32, 64, 128, 256, 512, 1024) if row < max_rows)})
    contexts = sorted({1, max(max_context_per_row // 4, 1), max_context_per_row})
    corners = [(rows[0], contexts[0]), (rows[-1], contexts[0]), (rows[0], contexts[-1]), (rows[-1], contexts[-1])]
    plan = corners + [(row, contexts[0]) for row in rows] + [(row, keys) for keys in contexts[1:] for row in rows]
    return list(dict.fromkeys(plan))


def _row_label(num_rows: int) -> int:
    """Every number up to 8 by itself, above it four to an octave: 10, 12, 14, 16, 20, 24, 28, 32, 40, ..."""
    return num_rows if num_rows <= 8 else _rounded(num_rows, 1 << (num_rows.bit_length() - 3))


def _context_label(num_context: int) -> int:
    """Two to an octave: time follows context slowly."""
    return num_context if num_context <= 2 else _rounded(num_context, 1 << (num_context.bit_length() - 2))


def _rounded(value: int, step: int) -> int:
    return (value + step // 2) // step * step


def _drift(positions: dict[int, float], label: int, value: int) -> None:
    """The mean of the recent values of a label, so that a point of the table lies where its steps were."""
    at = positions.get(label)
    positions[label] = float(value) if at is None else at + (value - at) / 32.0


def _between(points: list[float], value: float) -> tuple[int, float]:
    """Index of the point at or below a value, and how far on the way to the next it is; held at both ends."""
    index = min(max(bisect_right(points, value) - 1, 0), max(len(points) - 2, 0))
    if len(points) == 1:
        return 0, 0.0
    part = (value - points[index]) / (points[index + 1] - points[index])
    return index, min(max(part, 0.0), 1.0)


def _all_between(
    points: NDArray[np.float64],  # [num_points]
    values: NDArray[np.float64],  # [n]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """`_between` of n values."""
    if points.size == 1:
        return np.zeros(values.shape, dtype=np.intp), np.zeros(values.shape)
    index = np.clip(np.searchsorted(points, values, side="right") - 1, 0, points.size - 2)
    part = (values - points[index]) / (points[index + 1] - points[index])
    return index, np.clip(part, 0.0, 1.0)
