"""Synthetic traffic: domains with words of their own among words that all share."""

from __future__ import annotations

import random

__all__ = ["Domains"]


class Domains:
    """`own_share` of a prompt's words are its domain's; words are drawn with Zipf's weights, as in text."""

    def __init__(self, *, num_domains: int, seed: int, own_share: float = 0.4) -> None:
        self._rng = random.Random(seed)
        self._own_share = own_share
        self._shared = self._rng.sample(range(32_000), 400)
        self._own = [self._rng.sample(range(32_000), 400) for _ in range(num_domains)]
        self._weights = [1.0 / (1 + rank) for rank in range(400)]

    def prompt(self, domain: int, num_tokens: int = 80) -> list[int]:
        """Tokens of one prompt."""
        num_own = sum(self._rng.random() < self._own_share for _ in range(num_tokens))
        words = self._rng.choices(self._own[domain], self._weights, k=num_own)
        words += self._rng.choices(self._shared, self._weights, k=num_tokens - num_own)
        self._rng.shuffle(words)
        return words
