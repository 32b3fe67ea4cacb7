"""Randomness as a parameter: the coin that a rule throws, which in use is random and in proofs falls on every side.

A rule never draws numbers itself; it throws a coin for each decision and states the probability. `RandomCoin` throws
from any stream of uniforms, such as a numpy Generator. `outcomes` runs the same code once for every way its coins can
fall, each with its exact probability: what a rule commits is then known as a distribution, not as a sample, and can be
compared with the target's to the last bits of float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Coin", "Probs", "RandomCoin", "outcomes"]

Probs = NDArray[np.float64]
"""Probabilities or non-negative weights, float64; the shape is said where it is used."""

T = TypeVar("T")


class Coin(Protocol):
    """Decides by chance."""

    def flip(self, probability: float) -> bool:
        """True with this probability; values outside 0 to 1 count as the nearer of them."""
        ...

    def choose(
        self,
        weights: Probs,  # [n], not negative, some above 0; they need not sum to 1
    ) -> int:
        """Index i with probability weights[i] / sum(weights); never one of weight 0."""
        ...


class RandomCoin:
    """A coin thrown by a stream of uniforms in [0, 1): `RandomCoin(generator.random)`."""

    def __init__(self, uniform: Callable[[], float]) -> None:
        self._uniform = uniform

    def flip(self, probability: float) -> bool:
        return self._uniform() < probability

    def choose(
        self,
        weights: Probs,  # [n]
    ) -> int:
        sums = np.cumsum(weights)
        index = int(np.searchsorted(sums, self._uniform() * sums[-1], side="right"))
        # Rounding may lift uniform * total up to the total itself; the last index of any weight is meant then.
        return index if index < len(sums) else int(np.flatnonzero(weights)[-1])


class _ScriptedCoin:
    """Falls as its script says, then on the first side there is, and notes the sides not taken as further scripts."""

    def __init__(self, script: list[int]) -> None:
        self.taken: list[int] = []
        self.untaken: list[list[int]] = []
        self.probability = 1.0
        self._script = script

    def flip(self, probability: float) -> bool:
        p = min(1.0, max(0.0, probability))
        return bool(self._fall((1.0 - p, p)))

    def choose(
        self,
        weights: Probs,  # [n]
    ) -> int:
        return self._fall((weights / weights.sum()).tolist())

    def _fall(self, probabilities: tuple[float, ...] | list[float]) -> int:
        if len(self.taken) < len(self._script):
            side = self._script[len(self.taken)]
        else:
            side, *others = (index for index, p in enumerate(probabilities) if p > 0.0)
            self.untaken.extend([*self.taken, other] for other in others)
        self.taken.append(side)
        self.probability *= probabilities[side]
        return side


def outcomes(run: Callable[[Coin], T]) -> Iterator[tuple[float, T]]:
    """Every outcome of `run` with its probability; `run` must decide by nothing but the coin.

    >>> sorted(outcomes(lambda coin: (coin.flip(0.25), coin.flip(0.0))))
    [(0.25, (True, False)), (0.75, (False, False))]
    """
    scripts: list[list[int]] = [[]]
    while scripts:
        coin = _ScriptedCoin(scripts.pop())
        outcome = run(coin)
        scripts.extend(coin.untaken)
        yield coin.probability, outcome
