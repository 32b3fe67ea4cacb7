"""What one tenant's traffic has taught about drafters: how often each agrees with the target on which kind of prompt.

For each drafter a linear model of its agreement (the share of tokens at which it says what the target commits), over
the prompt's features and a constant. Linear regression rather than centroids of good prompts, because it is corrected
by its error: words that all domains share get no weight, however frequent. What all prompts share is taken away from
each before (`common_part`). Learned by a Kalman filter with diagonal covariance, that is Bayesian regression in which
every weight has a mean and a precision of its own (compare Chapelle and Li, "An Empirical Evaluation of Thompson
Sampling", 2011, algorithm 3). What that buys:

- *Full information* (HedgeSpec, arXiv 2510.20064): a drafter that merely follows a sequence scores its tokens too, and
  is learned about without ever having been tried. Nothing here asks who had drafted.
- *Merging is multiplying posteriors*: precisions add, and so do means times precisions. So states of several routers
  unite in any order and grouping, and a state says the evidence alone, not the prior: an empty one changes nothing.
  Merging the same evidence twice counts it twice; each router stores what it learned itself. Each has learned beside
  what its own prompts had in common, which is much the same where it is one tenant's traffic.
- *Forgetting where there is something new*: precisions have a ceiling, so that a weight never counts more than
  `horizon` requests and a drafter that changed is known again soon after. What is not seen is not forgotten: a domain
  that comes once a day keeps what it knows.
- *Bounded*: two numbers per feature and drafter, at most `max_drafters` of them.

CoSine (arXiv 2503.10325) routes by a vector per request; how it starts such a vector is not known to us, and this is
our own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from contracts.errors import InvalidArgument
from contracts.types import DrafterId
from speculation.common_part import CommonPart
from speculation.features import NUM_FEATURES

__all__ = ["PRIOR_PRECISION", "DrafterModel", "Expertise"]

_START = 0.5  # agreement of a drafter nobody knows
PRIOR_PRECISION = 10.0  # of a weight: agreement on a prompt then lies within about 0.3 of the start
_DRIFT = 0.01  # variance of agreement between requests of one kind, beyond what counting tokens explains
_FLOOR = 0.01  # a linear model can leave [0, 1]; a rate of exactly 0 or 1 is never certain


class DrafterModel:
    """One drafter's weights: `precision` and `moment` (mean times total precision) of evidence, [1 + num_features]."""

    __slots__ = ("moment", "num_tokens", "precision")

    def __init__(self, num_weights: int) -> None:
        self.precision: NDArray[np.float64] = np.zeros(num_weights)
        self.moment: NDArray[np.float64] = np.zeros(num_weights)
        self.num_tokens = 0.0


class Expertise:
    """See the module. One instance for each tenant: what one tenant's text taught is never another's."""

    def __init__(self, *, num_features: int = NUM_FEATURES, horizon: float = 50.0, max_drafters: int = 64) -> None:
        if num_features < 1 or max_drafters < 1 or not 1.0 <= horizon < math.inf:
            raise InvalidArgument(
                f"expertise has num_features {num_features}, horizon {horizon}, max_drafters {max_drafters}; "
                "all are 1 or more, and the horizon is finite"
            )
        self.num_features, self.horizon, self.max_drafters = num_features, horizon, max_drafters
        self.common = CommonPart(num_features)
        self._models: dict[DrafterId, DrafterModel] = {}

    def __len__(self) -> int:
        return len(self._models)

    def models(self) -> Iterator[tuple[DrafterId, DrafterModel]]:
        """By drafter id, for whoever writes them down."""
        return iter(sorted(self._models.items()))

    def agreement(
        self,
        features: NDArray[np.float64],  # [num_features], from prompt_features
        drafter: DrafterId,
    ) -> float:
        """The share of this prompt's tokens that the drafter can be expected to say, before the first one is known."""
        model = self._models.get(drafter)
        if model is None:
            return _START
        means = model.moment / _total(model)
        return min(max(_START + float(means @ self._inputs(features)), _FLOOR), 1.0 - _FLOOR)

    def doubt(
        self,
        features: NDArray[np.float64],  # [num_features], from prompt_features
        drafter: DrafterId,
    ) -> float:
        """The standard deviation of that agreement: how little prompts like this one have said of the drafter."""
        model = self._models.get(drafter)
        total = PRIOR_PRECISION if model is None else _total(model)
        return math.sqrt(float((self._inputs(features) ** 2 / total).sum()))

    def see(
        self,
        features: NDArray[np.float64],  # [num_features], from prompt_features
    ) -> None:
        """A prompt has come, whoever was scored on it."""
        self.common.observe(self._checked(features))

    def learn(
        self,
        features: NDArray[np.float64],  # [num_features]
        drafter: DrafterId,
        agreement: float,
        num_tokens: float,
    ) -> None:
        """A sequence (or a stretch of one) on which the drafter was scored, whether it drafted or only followed."""
        if not (0.0 <= agreement <= 1.0 and 0.0 <= num_tokens < math.inf):  # NaN fails this too
            raise InvalidArgument(
                f"drafter {drafter} agreed on {agreement} of {num_tokens} tokens; "
                "the first lies between 0 and 1, the second is finite and not negative"
            )
        if num_tokens == 0.0:
            return
        inputs = self._inputs(features)
        model = self._model(drafter)
        total = _total(model)
        means = model.moment / total
        noise = 0.25 / num_tokens + _DRIFT
        uncertain = inputs / total
        error = agreement - _START - float(means @ inputs)
        means += uncertain * (error / (float(uncertain @ inputs) + noise))
        model.precision = np.minimum(model.precision + inputs**2 / noise, self._ceiling())
        model.moment = means * _total(model)
        model.num_tokens += num_tokens

    def forget(self, drafter: DrafterId) -> None:
        """It was replaced by another model of the same name."""
        self._models.pop(drafter, None)

    def merge(self, other: Expertise) -> None:
        """Adds the evidence of another router."""
        if other.num_features != self.num_features:
            raise InvalidArgument(
                f"expertise over {other.num_features} features cannot merge into one over {self.num_features}"
            )
        self.common.merge(other.common.mean, other.common.num_prompts)
        for drafter, theirs in other.models():
            self.restore(drafter, theirs.precision, theirs.moment, theirs.num_tokens)
        while len(self._models) > self.max_drafters:
            self._drop_least_known()

    def restore(
        self,
        drafter: DrafterId,
        precision: NDArray[np.float64],  # [1 + num_features]
        moment: NDArray[np.float64],  # [1 + num_features]
        num_tokens: float,
    ) -> None:
        """Adds evidence about one drafter as it was written down; the caller has checked it."""
        model = self._models.setdefault(drafter, DrafterModel(1 + self.num_features))
        model.precision = model.precision + precision
        model.moment = model.moment + moment
        model.num_tokens += num_tokens

    def _ceiling(self) -> NDArray[np.float64]:
        """What `horizon` requests bring: to the constant all of them, to a feature at most its share of the length."""
        ceiling = np.full(1 + self.num_features, self.horizon / _DRIFT / math.sqrt(self.num_features))
        ceiling[0] = self.horizon / _DRIFT
        return ceiling

    def _inputs(
        self,
        features: NDArray[np.float64],  # [num_features]
    ) -> NDArray[np.float64]:
        return np.concatenate([[1.0], self.common.apart(self._checked(features))])

    def _checked(
        self,
        features: NDArray[np.float64],  # [num_features]
    ) -> NDArray[np.float64]:
        if features.shape != (self.num_features,) or not bool(np.isfinite(features).all()):
            raise InvalidArgument(f"features have shape {features.shape}; right are {self.num_features} finite numbers")
        return features

    def _model(self, drafter: DrafterId) -> DrafterModel:
        model = self._models.get(drafter)
        if model is None:
            if len(self._models) >= self.max_drafters:
                self._drop_least_known()
            model = self._models[drafter] = DrafterModel(1 + self.num_features)
        return model

    def _drop_least_known(self) -> None:
        del self._models[min(self._models, key=lambda drafter: (self._models[drafter].num_tokens, drafter))]


def _total(model: DrafterModel) -> NDArray[np.float64]:
    """Precision of the weights, with what they had from the start: [1 + num_features]."""
    return model.precision + PRIOR_PRECISION
