"""A tenant's expertise as plain data and back: dicts, lists, numbers and text, fit for JSON, with a version.

Reading believes nothing: state comes from a store that others write to. What is refused is refused as a whole.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from contracts.errors import InvalidArgument, shown
from contracts.types import DrafterId
from speculation.expertise import PRIOR_PRECISION, Expertise
from speculation.state import field_of, integer, items, number, text

__all__ = ["expertise_from_state", "expertise_to_state"]

_WHAT = "expertise state"
_VERSION = 2
_MOST_PRECISION = 1e12  # of thousands of routers merged at their ceilings
_MOST_TOKENS = 1e15
_MOST_MEAN = 100.0  # weights explain rates between 0 and 1; a weight of hundreds was never learned
_MOST_FEATURES = 65_536
_MOST_PROMPTS = 1e9


def expertise_to_state(expertise: Expertise) -> dict[str, object]:
    """All that was learned."""
    return {
        "version": _VERSION,
        "num_features": expertise.num_features,
        "horizon": expertise.horizon,
        "max_drafters": expertise.max_drafters,
        "common": {"num_prompts": expertise.common.num_prompts, "mean": expertise.common.mean.tolist()},
        "drafters": [
            {
                "drafter": str(drafter),
                "num_tokens": model.num_tokens,
                "precision": model.precision.tolist(),
                "moment": model.moment.tolist(),
            }
            for drafter, model in expertise.models()
        ],
    }


def expertise_from_state(state: object) -> Expertise:
    """Reads what `expertise_to_state` wrote."""
    if (version := field_of(_WHAT, state, "version")) != _VERSION:
        raise InvalidArgument(f"{_WHAT} has version {shown(version)}; this program reads {_VERSION}")
    num_features = integer(_WHAT, field_of(_WHAT, state, "num_features"), 1, _MOST_FEATURES)
    expertise = Expertise(
        num_features=num_features,
        horizon=number(_WHAT, field_of(_WHAT, state, "horizon"), 1.0, 1e9),
        max_drafters=integer(_WHAT, field_of(_WHAT, state, "max_drafters"), 1, 1_000_000),
    )
    common = field_of(_WHAT, state, "common")
    num_prompts = number(_WHAT, field_of(_WHAT, common, "num_prompts"), 0.0, _MOST_PROMPTS)
    expertise.common.merge(_numbers(field_of(_WHAT, common, "mean"), num_features, -1.0, 1.0), num_prompts)
    seen: set[str] = set()
    for entry in items(_WHAT, field_of(_WHAT, state, "drafters"), expertise.max_drafters):
        drafter = text(_WHAT, field_of(_WHAT, entry, "drafter"))
        if drafter in seen:
            raise InvalidArgument(f"{_WHAT} has drafter {shown(drafter)} twice")
        seen.add(drafter)
        precision = _numbers(field_of(_WHAT, entry, "precision"), 1 + num_features, 0.0, _MOST_PRECISION)
        moment = _numbers(field_of(_WHAT, entry, "moment"), 1 + num_features, -np.inf, np.inf)
        if bool((np.abs(moment) > _MOST_MEAN * (precision + PRIOR_PRECISION)).any()):
            raise InvalidArgument(f"{_WHAT} of {shown(drafter)} has weights beyond {_MOST_MEAN:g}; no rate needs them")
        num_tokens = number(_WHAT, field_of(_WHAT, entry, "num_tokens"), 0.0, _MOST_TOKENS)
        expertise.restore(DrafterId(drafter), precision, moment, num_tokens)
    return expertise


def _numbers(value: object, count: int, low: float, high: float) -> NDArray[np.float64]:
    """[count]."""
    found = [number(_WHAT, each, low, high) for each in items(_WHAT, value, count)]
    if len(found) != count:
        raise InvalidArgument(f"{_WHAT} has {len(found)} numbers in a place for {count}, by its num_features")
    return np.array(found)
