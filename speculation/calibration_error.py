"""How good calibration is: its error over the recent past, as it was predicted then."""

from __future__ import annotations

import math
from dataclasses import dataclass

from speculation.fading_sums import FadingSums

__all__ = ["NUM_ERROR_BINS", "CalibrationReport", "ErrorMeter", "report_of"]

NUM_ERROR_BINS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationReport:
    """`expected_calibration_error`: mean distance between what was predicted and what came, over ten bins of
    predictions. `brier_score`: mean squared distance between a prediction and its outcome (0 or 1); it also falls when
    predictions tell more apart. Both are 0 without observations, and `num_observations` fades like the rest."""

    num_observations: float
    expected_calibration_error: float
    brier_score: float


class ErrorMeter:
    """Each prediction is scored with the outcome before it is learned from: nothing is ever judged on its own data."""

    __slots__ = ("sums",)

    def __init__(self, horizon: float) -> None:
        # Columns: number, predicted, chosen, squares.
        self.sums = FadingSums(num_columns=4, num_bins=NUM_ERROR_BINS, horizon=horizon)

    def observe(self, predicted: float, chosen: bool) -> None:
        """One prediction and what came of it."""
        outcome = float(chosen)
        index = min(int(predicted * NUM_ERROR_BINS), NUM_ERROR_BINS - 1)
        self.sums.add(index, (1.0, predicted, outcome, (predicted - outcome) ** 2))


def report_of(meters: list[ErrorMeter]) -> CalibrationReport:
    """The error over all that these meters saw."""
    together = FadingSums(num_columns=4, num_bins=NUM_ERROR_BINS, horizon=math.inf)
    for meter in meters:
        together.merge(meter.sums.columns())
    numbers, predicted, chosen, squares = together.columns()
    total = math.fsum(numbers)
    if total == 0.0:
        return CalibrationReport(num_observations=0.0, expected_calibration_error=0.0, brier_score=0.0)
    distance = math.fsum(abs(sure - came) for sure, came in zip(predicted, chosen, strict=True))
    return CalibrationReport(
        num_observations=total,
        expected_calibration_error=distance / total,
        brier_score=math.fsum(squares) / total,
    )
