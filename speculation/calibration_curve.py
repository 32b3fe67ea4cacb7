"""One calibration curve: a nondecreasing function from a raw score to a chance, learned online."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate

from speculation.fading_sums import FadingSums
from speculation.isotonic import isotonic

__all__ = ["CalibrationCurve", "clamped"]

_SMALLEST, _LARGEST = 0.001, 0.999
_REFIT_SHARE = 0.05
_WEIGHT_OF_PRIOR = 0.1


def clamped(chance: float) -> float:
    """Kept from 0 and 1: no finite evidence makes anything certain, and a product of ones would never end a path."""
    return min(max(chance, _SMALLEST), _LARGEST)


class CalibrationCurve:
    """Histogram binning with a prior, made monotone, read by interpolation.

    Each bin of scores has the mean of its outcomes and of `prior_weight` pretended ones at what the prior says there;
    so a bin without data follows the prior and one with data leaves it as fast as evidence comes in. Isotonic
    regression then puts the bins in order (a higher score never means a lower chance, so data of a bin informs its
    neighbours where they contradict). Between the bins' mean scores the curve is linear.

    Fitting is O(bins). It is done when read, once evidence grew by a twentieth, so an observation costs O(1) amortised.
    """

    __slots__ = ("_chances", "_num_new", "_patience", "_prior_weight", "_scores", "sums")

    def __init__(self, *, num_bins: int, horizon: float, prior_weight: float) -> None:
        self.sums = FadingSums(num_columns=3, num_bins=num_bins, horizon=horizon)  # number, scores, chosen
        self._prior_weight = prior_weight
        self._num_new = 0
        self._patience = 0.0
        self._scores: list[float] = []  # [num_bins], nondecreasing; empty: not fitted
        self._chances: list[float] = []  # [num_bins], nondecreasing

    def learn(self, index: int, score: float, chosen: bool) -> None:
        """One outcome at a score that falls in this bin."""
        self.sums.add(index, (1.0, score, float(chosen)))
        self._num_new += 1

    def merge(self, columns: list[list[float]]) -> None:
        """Adds the sums of another curve."""
        self.sums.merge(columns)
        self._scores = []

    def due(self) -> bool:
        """Whether there is so much new evidence that the curve should be fitted before it is read."""
        return not self._scores or self._num_new > self._patience

    def fit(self, prior: Callable[[float], float]) -> None:
        """Fits to all evidence; `prior` is a nondecreasing function from score to chance."""
        numbers, scores, chosen = self.sums.columns()
        num_bins, added = len(numbers), self._prior_weight
        means = [
            min(
                max((scores[i] + added * (i + 0.5) / num_bins) / (numbers[i] + added), i / num_bins), (i + 1) / num_bins
            )
            for i in range(num_bins)
        ]
        rates = [(chosen[i] + added * prior(means[i])) / (numbers[i] + added) for i in range(num_bins)]
        # In this the prior hardly counts: bins without data give way to those with, they do not pull them.
        fitted = isotonic(rates, [number + _WEIGHT_OF_PRIOR for number in numbers])
        # Blocks are in order but for rounding of their means; the running maximum takes that away too.
        self._scores, self._chances = means, list(accumulate(map(clamped, fitted), max))
        self._num_new, self._patience = 0, _REFIT_SHARE * sum(numbers)

    def at(self, score: float) -> float:
        """The chance at a score; the curve was fitted."""
        scores, chances = self._scores, self._chances
        right = bisect_right(scores, score)
        if right == 0:
            return chances[0]
        if right == len(scores):
            return chances[-1]
        low, high = chances[right - 1], chances[right]
        share = (score - scores[right - 1]) / (scores[right] - scores[right - 1])
        # Rounding must not lead beyond the end of a piece, or the curve would fall where the next begins.
        return min(low + (high - low) * share, high)
