"""When to try drafters that are little known: only when those in use disappoint.

CoSine (arXiv 2503.10325) raises the share of under-tried drafters when a request's recent accepted length is below a
threshold, and otherwise uses those with the best scores. Its coefficients are not known to us; the form is ours:

    share    = max_share * (1 - accepted length / threshold), 0 at the threshold and above
    optimism = how little a drafter is known on this sequence: 1 untried, 1/2 after `enough_tokens` tokens
    tried as if its agreement were   score + share * optimism * (1 - score)

At a share of 0 the scores alone decide, so a sequence that goes well is never experimented on. A drafter's optimism
falls with every token it is scored on, so a trial ends by itself. No dice are rolled: the same state tries the same.
"""

from __future__ import annotations

import math

from contracts.errors import InvalidArgument

__all__ = ["AcceptedLength", "tried_as"]


class AcceptedLength:
    """The recent accepted length of one sequence, and the share of trials that follows from it.

    Rounds without draft nodes are not to be told: they were the budget's choice and say nothing about drafters.
    """

    __slots__ = ("_keep", "_length", "max_share", "threshold")

    def __init__(self, *, threshold: float = 1.0, max_share: float = 0.5, memory_rounds: float = 8.0) -> None:
        if not (threshold > 0.0 and 0.0 <= max_share <= 1.0 and memory_rounds >= 1.0):  # NaN fails this too
            raise InvalidArgument(
                f"trials have threshold {threshold}, max_share {max_share}, memory_rounds {memory_rounds}; "
                "the first is above 0, the second from 0 to 1, the third 1 or more"
            )
        self.threshold, self.max_share = threshold, max_share
        self._keep = math.exp(-1.0 / memory_rounds)
        self._length = threshold  # innocent until proven guilty

    def observe(self, num_accepted: int) -> None:
        """A round that checked at least one node."""
        self._length += (1.0 - self._keep) * (num_accepted - self._length)

    @property
    def length(self) -> float:
        return self._length

    @property
    def trial_share(self) -> float:
        return self.max_share * min(max(1.0 - self._length / self.threshold, 0.0), 1.0)


def tried_as(score: float, num_tokens: float, trial_share: float, *, enough_tokens: float = 16.0) -> float:
    """The agreement to route by.

    >>> tried_as(0.4, 0.0, 0.0), round(tried_as(0.4, 0.0, 0.5), 3), round(tried_as(0.4, 48.0, 0.5), 3)
    (0.4, 0.7, 0.475)
    """
    return score + trial_share * (1.0 - score) * enough_tokens / (enough_tokens + num_tokens)
