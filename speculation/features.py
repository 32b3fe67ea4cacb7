"""What a prompt is about, cheaply: hashed n-grams of its tokens as one vector of fixed size. No model, no vocabulary.

Feature hashing (Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", 2009): an n-gram adds its sign
to the entry that its hash names. Signs are as often +1 as -1, so that n-grams which share an entry cancel on average:
the inner product of two vectors is an unbiased estimate of that of the full n-gram counts, whatever the dimension.

Square roots of the counts are taken, for the tenth "the" says little more than the first, and the vector has length 1,
so that a long prompt weighs as much as a short one. The hash is arithmetic on the token ids (the finaliser of
splitmix64), the same in every process and on every machine; Python's own `hash` is neither.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from contracts.errors import InvalidArgument

__all__ = ["NUM_FEATURES", "prompt_features"]

NUM_FEATURES = 256
_MAX_TOKENS = 1024  # of a longer prompt the beginning and the end: instructions stand there
_LARGEST_TOKEN = 2**31 - 1


def prompt_features(tokens: Sequence[int], *, num_features: int = NUM_FEATURES) -> NDArray[np.float64]:
    """Float64 [num_features] of length 1; all zeros for an empty prompt. `bytes` are a sequence of tokens too."""
    if num_features < 1:
        raise InvalidArgument(f"num_features is {num_features}; it is 1 or more")
    features = np.zeros(num_features)
    if not tokens:
        return features
    half = _MAX_TOKENS // 2
    for part in [tokens] if len(tokens) <= _MAX_TOKENS else [tokens[:half], tokens[-half:]]:
        hashes = _ngrams(_words(part))
        signs = 1.0 - 2.0 * (hashes >> np.uint64(63)).astype(np.float64)
        places = (hashes % np.uint64(num_features)).astype(np.intp)
        features += np.bincount(places, weights=signs, minlength=num_features)
    features = np.sign(features) * np.sqrt(np.abs(features))
    length = float(np.linalg.norm(features))
    return features / length if length > 0.0 else features


def _words(tokens: Sequence[int]) -> NDArray[np.uint64]:
    """Uint64 [num_tokens]."""
    try:
        ids = np.array(list(tokens), dtype=np.int64)
    except (OverflowError, ValueError, TypeError):
        raise InvalidArgument(f"a prompt holds something that is no token id; ids are 0 to {_LARGEST_TOKEN}") from None
    if ids.min() < 0 or ids.max() > _LARGEST_TOKEN:
        raise InvalidArgument(f"a prompt has token ids {ids.min()} to {ids.max()}; ids are 0 to {_LARGEST_TOKEN}")
    return ids.astype(np.uint64)


def _ngrams(
    words: NDArray[np.uint64],  # [num_tokens]
) -> NDArray[np.uint64]:
    """Hashes of all one-, two- and three-grams."""
    single = _mixed(words + np.uint64(0x9E3779B97F4A7C15))
    double = _mixed(single[:-1] * np.uint64(3) + single[1:])
    triple = _mixed(double[:-1] * np.uint64(5) + single[2:])
    return np.concatenate([single, double, triple])


def _mixed(
    words: NDArray[np.uint64],  # [n]
) -> NDArray[np.uint64]:
    """The finaliser of splitmix64: every bit of a word depends on all bits that went in. Products wrap, as intended."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
