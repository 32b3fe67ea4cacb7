"""The shared noise of single tokens, for drafters that choose without a model."""

from __future__ import annotations

from collections.abc import Sequence

from kernels.noise import noise

__all__ = ["noise_of"]


def noise_of(seed: int, position: int, tokens: Sequence[int]) -> list[float]:
    """What the sampler adds to the scaled logits of these tokens at a position, bit for bit."""
    return [float(noise(seed, position, token, token + 1)[0]) for token in tokens]
