"""Calibration: from a drafter's raw score to the chance that the target picks its token, learned from verdicts.

Budgets multiply and compare confidences of different drafters, which only makes sense when 0.7 means seven times in
ten. Drafters are over-confident each in its own way (TAPS, arXiv 2603.27027, routes by confidence; DSpark, 2607.05147,
prices calibrated confidences by load). What is learned is monotone: more score is never less chance, for within one
drafter the order of scores is sound where their size is not (isotonic calibration, Zadrozny and Elkan, 2002).

Three levels, each the prior of the next, so that few verdicts already say something about every score and depth:

1. *A ratio*: how many of a drafter's tokens were chosen, over the sum of its scores. A wild drafter, sure of what is
   never chosen, is discounted everywhere after a handful of verdicts.
2. *A curve over scores*, pooled over depths, with score times ratio as its prior.
3. *A curve for each depth*, with the pooled one as its prior; a depth without data is the pooled curve.

Everything fades with a horizon counted in observations, so a drafter that changes is followed. No clock is needed.
Drafters that have left are remembered, for they may come back, but not more and more of them.

What may be learned from: a node whose parent was accepted, with whether the target chose it. Below a rejected parent
nothing was tested. The calibrated figure is never used to decide a token, so an error costs speed and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from contracts.errors import InvalidArgument
from contracts.types import DrafterId
from speculation.calibration_curve import CalibrationCurve, clamped
from speculation.calibration_error import CalibrationReport, ErrorMeter, report_of
from speculation.scores import ScoreKind

__all__ = ["Calibrator", "Source"]

_POOLED_PRIOR, _DEPTH_PRIOR, _RATIO_PRIOR = 2.0, 8.0, 2.0
_MAX_SOURCES = 1024  # more than there can be drafters in a fleet, with all their kinds
_ERROR_HORIZON = 5.0  # errors are averaged over so many times the horizon: they are of use only when steady

Source = tuple[DrafterId, ScoreKind]


class SourceCurves:
    """What is known about one drafter's scores of one kind."""

    __slots__ = ("by_depth", "errors", "pooled")

    def __init__(self, *, num_bins: int, horizon: float) -> None:
        self.pooled = CalibrationCurve(num_bins=num_bins, horizon=horizon, prior_weight=_POOLED_PRIOR)
        self.by_depth: dict[int, CalibrationCurve] = {}
        self.errors = ErrorMeter(horizon * _ERROR_HORIZON)

    def confidence(self, depth: int, score: float) -> float:
        """The chance at this depth and score."""
        if self.pooled.due():
            ratio = self._ratio()
            self.pooled.fit(lambda score: clamped(score * ratio))
        curve = self.by_depth.get(depth)
        if curve is None:
            return self.pooled.at(score)
        if curve.due():
            curve.fit(self.pooled.at)
        return curve.at(score)

    def _ratio(self) -> float:
        _, scores, chosen = self.pooled.sums.columns()
        return (math.fsum(chosen) + _RATIO_PRIOR) / (math.fsum(scores) + _RATIO_PRIOR)


class Calibrator:
    """All drafters' curves. Scores lie in [0, 1] (`scores.py`); depth 1 is a child of the root."""

    def __init__(self, *, horizon: float = 300.0, num_bins: int = 16, max_depth: int = 16) -> None:
        if not horizon > 1.0 or not 2 <= num_bins <= 256 or not 1 <= max_depth <= 256:
            raise InvalidArgument(
                f"a calibrator has horizon {horizon}, num_bins {num_bins}, max_depth {max_depth}; "
                "right are above 1, 2 to 256, and 1 to 256"
            )
        self.horizon = horizon
        self.num_bins = num_bins
        self.max_depth = max_depth
        """Deeper nodes count as this deep."""
        self._sources: dict[Source, SourceCurves] = {}

    def confidence(self, drafter: DrafterId, kind: ScoreKind, depth: int, score: float) -> float:
        """The chance that the target picks a node with this score, given that it picked the parent.

        Never 0 or 1. A drafter of which nothing is known is believed as it says.
        """
        self._bin(depth, score)
        source = self._sources.get((drafter, kind))
        return clamped(score) if source is None else source.confidence(min(depth, self.max_depth), score)

    def learn(self, drafter: DrafterId, kind: ScoreKind, depth: int, score: float, *, chosen: bool) -> None:
        """One tested node: the target chose at its parent, this token or another."""
        index, depth = self._bin(depth, score), min(depth, self.max_depth)
        source = self._source((drafter, kind))
        source.errors.observe(source.confidence(depth, score), chosen)
        source.pooled.learn(index, score, chosen)
        self._curve(source, depth).learn(index, score, chosen)

    def report(self, drafter: DrafterId | None = None) -> CalibrationReport:
        """The error of one drafter's confidences over all kinds, or of everyone's."""
        return report_of([source.errors for (of, _), source in self.sources() if drafter in (None, of)])

    def merge(self, other: Calibrator) -> None:
        """Adds what another calibrator learned from other verdicts: without forgetting, the same as having learned
        from both; with it, each side's evidence weighs as it does there. What both know must not be merged twice."""
        if (other.horizon, other.num_bins, other.max_depth) != (self.horizon, self.num_bins, self.max_depth):
            raise InvalidArgument(
                f"calibrators differ in (horizon, num_bins, max_depth): {self.horizon, self.num_bins, self.max_depth} "
                f"and {other.horizon, other.num_bins, other.max_depth}; those that merge are set alike"
            )
        for key, theirs in other.sources():
            mine = self._source(key)
            mine.pooled.merge(theirs.pooled.sums.columns())
            mine.errors.sums.merge(theirs.errors.sums.columns())
            for depth, curve in theirs.by_depth.items():
                self._curve(mine, depth).merge(curve.sums.columns())

    def sources(self) -> Iterator[tuple[Source, SourceCurves]]:
        """Everything that was learned, in a fixed order; for `calibration_state.py`."""
        return iter(sorted(self._sources.items(), key=lambda item: (item[0][0], item[0][1].value)))

    def restore(self, key: Source, depth: int | None, columns: list[list[float]]) -> None:
        """Adds sums to one curve: the pooled one where depth is None."""
        source = self._source(key)
        (source.pooled if depth is None else self._curve(source, depth)).merge(columns)

    def restore_errors(self, key: Source, columns: list[list[float]]) -> None:
        """Adds sums to the error meter."""
        self._source(key).errors.sums.merge(columns)

    def _bin(self, depth: int, score: float) -> int:
        if not 0.0 <= score <= 1.0:  # NaN fails this too
            raise InvalidArgument(f"raw score is {score}; it lies between 0 and 1")
        if depth < 1:
            raise InvalidArgument(f"depth is {depth}; a child of the root has depth 1")
        return min(int(score * self.num_bins), self.num_bins - 1)

    def _source(self, key: Source) -> SourceCurves:
        """The one that something is learned about; that which nothing was learned about for longest makes room."""
        source = self._sources.pop(key, None) or SourceCurves(num_bins=self.num_bins, horizon=self.horizon)
        self._sources[key] = source
        if len(self._sources) > _MAX_SOURCES:
            del self._sources[next(iter(self._sources))]
        return source

    def _curve(self, source: SourceCurves, depth: int) -> CalibrationCurve:
        curve = source.by_depth.get(depth)
        if curve is None:
            curve = source.by_depth[depth] = CalibrationCurve(
                num_bins=self.num_bins, horizon=self.horizon, prior_weight=_DEPTH_PRIOR
            )
        return curve
