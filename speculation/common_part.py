"""What a tenant's prompts have in common, and so says nothing about any of them.

A chat template, a house's own preamble, words of every day: half of what makes two prompts alike is in all of them.
What a prompt has beside the mean of those that came before it is what it is about; without that, what one domain
taught is believed of all others, and it takes many requests to unlearn it. On recorded requests of seven domains this
took half of the wrong drafters away.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from speculation.features import of_length_1

__all__ = ["CommonPart"]

_CAUTION = 8.0  # prompts' worth: the first few share what they share by chance
_MEMORY = 200.0  # prompts, after which the mean follows the traffic


class CommonPart:
    """See the module. Merging adds prompts, so it has no order."""

    __slots__ = ("mean", "num_prompts")

    def __init__(self, num_features: int) -> None:
        self.mean: NDArray[np.float64] = np.zeros(num_features)
        self.num_prompts = 0.0

    def observe(
        self,
        features: NDArray[np.float64],  # [num_features]
    ) -> None:
        """One more prompt."""
        self.num_prompts = min(self.num_prompts + 1.0, _MEMORY)
        self.mean = self.mean + (features - self.mean) / self.num_prompts

    def apart(
        self,
        features: NDArray[np.float64],  # [num_features]
    ) -> NDArray[np.float64]:
        """What a prompt has of its own, of length 1: [num_features]."""
        return of_length_1(features - self.mean * (self.num_prompts / (self.num_prompts + _CAUTION)))

    def merge(
        self,
        mean: NDArray[np.float64],  # [num_features]
        num_prompts: float,
    ) -> None:
        """Adds the prompts of another router."""
        if num_prompts > 0.0:
            whole = self.num_prompts + num_prompts
            self.mean = self.mean * (self.num_prompts / whole) + mean * (num_prompts / whole)
            self.num_prompts = whole
