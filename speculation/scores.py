"""Raw scores: from what a drafter knows about a token to the one number, in [0, 1], that calibration starts from.

Calibration learns any monotone curve, so a raw score need not be a probability. It has to order nodes well, keep apart
what is different, and mean the same whatever the request's temperature, so that one curve serves all requests.

*At temperature 0* the target takes its most likely token. The draft's probability of a token says how often it would be
drawn, which is another thing: where a draft gives its first choice 0.3 and the next 0.2, the target takes the first
far more often than three times in ten, and the next less often than two. If the target's logits are the draft's plus
what nobody knows, spread with a scale s, the chances that each is the largest go with exp(logit / s); s is near a half
for drafts made from their target, so a score is the square of a probability among those of its siblings.

*Above it* draft and target choose the best of noisy logits with the same noise. Let z(y) be the draft's logit of y over
the temperature T plus the noise of y, and e(y) what the target's plain logit of y has over the draft's. The target's
noisy logit is z(y) + e(y) / T, so it chooses x against y exactly when

    T * (z(x) - z(y)) > e(y) - e(x).

On the right stands how the models differ, which knows nothing of noise or temperature. On the left the margin between
noisy logits, in units of plain ones: how much difference x can stand. The next best token is the one that is likeliest
to overtake, so the margin to it times T says nearly all; the draft's probability of x, which does not contain the
noise that has just decided, says little. It is squeezed to (0, 1) by the logistic function; where the margin is that of
two plain logits (T near 0), that is the probability of x between the two of them. A runner-up's margin is its distance
to the best, negative, and its score below a half.

Drafters without logits declare the range of whatever they count and use `scaled`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum

from contracts.errors import InvalidArgument

__all__ = ["ScoreKind", "kind_at", "raw_scores", "scaled"]

_SPREAD = 0.5


class ScoreKind(Enum):
    """What a score was made of; scores of different kinds have calibration curves of their own."""

    PROBABILITY = "probability"
    MARGIN = "margin"
    COUNTED = "counted"


def kind_at(temperature: float) -> ScoreKind:
    """The kind that a drafter with logits uses for a request of this temperature."""
    return ScoreKind.MARGIN if temperature > 0.0 else ScoreKind.PROBABILITY


def raw_scores(values: Sequence[float], *, temperature: float) -> list[float]:
    """The scores of the candidates of one place, by their noisy logits over the temperature (plain logits at 0), best
    first, of kind `kind_at(temperature)`; see the module.

    A lone candidate's is always 1: nothing is known, and calibration learns from that how often it is right.

    >>> [round(score, 3) for score in raw_scores([4.0, 2.0], temperature=0.5)]
    [0.731, 0.269]
    >>> [round(score, 3) for score in raw_scores([4.0, 3.0], temperature=0.0)]
    [0.881, 0.119]
    """
    if not 0.0 <= temperature < math.inf or any(math.isnan(value) for value in values):
        raise InvalidArgument(
            f"drafts have values {list(values)} at temperature {temperature}; none of them is NaN, and the temperature "
            "is finite and not negative"
        )
    if temperature == 0.0:
        best = max(values, default=0.0)
        shares = [math.exp((value - best) / _SPREAD) for value in values]
        total = math.fsum(shares)
        return [share / total for share in shares]
    return [_logistic(margin * temperature) for margin in _margins(values)]


def _margins(values: Sequence[float]) -> list[float]:
    """The best's to the next, the others' to the best."""
    if len(values) < 2:
        return [math.inf] * len(values)
    return [values[0] - values[1], *(value - values[0] for value in values[1:])]


def _logistic(x: float) -> float:
    """In two forms, so that neither overflows."""
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0.0 else math.exp(x) / (1.0 + math.exp(x))


def scaled(value: float, low: float, high: float) -> float:
    """A drafter's own measure, declared to lie in [low, high], as a score of kind `COUNTED`."""
    if not (low < high and low <= value <= high):  # NaN fails this too
        raise InvalidArgument(f"a drafter's score is {value}; its declared range is {low} to {high}")
    return (value - low) / (high - low)
