"""A calibrator as plain data and back: dicts, lists, numbers and text, fit for JSON, with a version.

Reading believes nothing: state comes from a store that others write to. What is refused is refused as a whole.
"""

from __future__ import annotations

import math

from contracts.errors import InvalidArgument, shown
from contracts.types import DrafterId
from speculation.calibration import Calibrator, Source
from speculation.calibration_error import NUM_ERROR_BINS
from speculation.scores import ScoreKind

__all__ = ["calibrator_from_state", "calibrator_to_state"]

_VERSION = 2  # 1 had other scores under the same names
_LARGEST_WEIGHT = 1e15  # above it, adding one observation to a float64 changes little or nothing


def calibrator_to_state(calibrator: Calibrator) -> dict[str, object]:
    """All that was learned; an infinite horizon is None, for JSON has no infinity."""
    return {
        "version": _VERSION,
        "horizon": None if math.isinf(calibrator.horizon) else calibrator.horizon,
        "num_bins": calibrator.num_bins,
        "max_depth": calibrator.max_depth,
        "sources": [
            {
                "drafter": str(drafter),
                "kind": kind.value,
                "pooled": source.pooled.sums.columns(),
                "depths": [
                    {"depth": depth, "sums": curve.sums.columns()} for depth, curve in sorted(source.by_depth.items())
                ],
                "errors": source.errors.sums.columns(),
            }
            for (drafter, kind), source in calibrator.sources()
        ],
    }


def calibrator_from_state(state: object) -> Calibrator:
    """Reads what `calibrator_to_state` wrote."""
    if (version := _field(state, "version")) != _VERSION:
        raise InvalidArgument(f"calibration state has version {shown(version)}; this program reads {_VERSION}")
    horizon = _field(state, "horizon")
    calibrator = Calibrator(
        horizon=math.inf if horizon is None else _number(horizon),
        num_bins=_integer(_field(state, "num_bins")),
        max_depth=_integer(_field(state, "max_depth")),
    )
    seen: set[Source] = set()
    for source in _list(_field(state, "sources")):
        key = _key(source)
        if key in seen:
            raise InvalidArgument(f"calibration state has {key[0]} with scores of kind {key[1].value} twice")
        seen.add(key)
        calibrator.restore(key, None, _sums(_field(source, "pooled"), 3, calibrator.num_bins))
        calibrator.restore_errors(key, _sums(_field(source, "errors"), 4, NUM_ERROR_BINS))
        depths: set[int] = set()
        for entry in _list(_field(source, "depths")):
            depth = _integer(_field(entry, "depth"))
            if depth in depths or not 1 <= depth <= calibrator.max_depth:
                raise InvalidArgument(
                    f"calibration state of {key[0]} has depth {depth}; right is 1 to {calibrator.max_depth}, once each"
                )
            depths.add(depth)
            calibrator.restore(key, depth, _sums(_field(entry, "sums"), 3, calibrator.num_bins))
    return calibrator


def _key(source: object) -> Source:
    drafter, kind = _field(source, "drafter"), _field(source, "kind")
    if not isinstance(drafter, str) or not drafter:
        raise InvalidArgument(f"calibration state names a drafter {shown(drafter)}; it is a text that is not empty")
    kinds = {each.value: each for each in ScoreKind}
    if not isinstance(kind, str) or kind not in kinds:
        raise InvalidArgument(f"calibration state has scores of kind {shown(kind)}; there are {', '.join(kinds)}")
    return DrafterId(drafter), kinds[kind]


def _sums(value: object, num_columns: int, num_bins: int) -> list[list[float]]:
    """The columns of a curve or meter: numbers of observations first, no other sum above them."""
    columns = [[_number(amount) for amount in _list(column)] for column in _list(value)]
    if len(columns) != num_columns or any(len(column) != num_bins for column in columns):
        raise InvalidArgument(
            f"calibration sums have {[len(column) for column in columns][:8]} entries; "
            f"right are {num_columns} columns of {num_bins}"
        )
    for index, most in enumerate(columns[0]):
        amounts = [column[index] for column in columns]
        if most > _LARGEST_WEIGHT or min(amounts) < 0.0 or max(amounts) > most * (1.0 + 1e-9):
            raise InvalidArgument(
                f"calibration sums of bin {index} are {shown(amounts)}; the first counts observations, at most "
                f"{_LARGEST_WEIGHT:g}, and the others lie between 0 and it"
            )
    return columns


def _field(value: object, name: str) -> object:
    if not isinstance(value, dict) or name not in value:
        raise InvalidArgument(f"calibration state has no {name!r} where there should be one: {shown(value)}")
    found: object = value[name]
    return found


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise InvalidArgument(f"calibration state has {shown(value)} where a list should be")
    return value


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidArgument(f"calibration state has {shown(value)} where an integer should be")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
        raise InvalidArgument(f"calibration state has {shown(value)} where a finite number should be")
    try:
        return float(value)
    except OverflowError:
        raise InvalidArgument(f"calibration state has {shown(value)}, which is too large") from None
