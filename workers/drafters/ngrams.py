"""Short token contexts as one integer each: a key that is smaller than a tuple and quicker to look up."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["context_of_key", "key_of_context"]


def key_of_context(tokens: Iterable[int], vocab_size: int) -> int:
    """The tokens as digits from 1 in base vocab_size + 1, so that contexts of different sizes never share a key.

    >>> key_of_context([0, 2], vocab_size=9)
    13
    """
    base, key = vocab_size + 1, 0
    for token in tokens:
        key = key * base + token + 1
    return key


def context_of_key(key: int, vocab_size: int) -> list[int]:
    """The tokens of a key.

    >>> context_of_key(13, vocab_size=9)
    [0, 2]
    """
    tokens: list[int] = []
    while key:
        key, digit = divmod(key, vocab_size + 1)
        tokens.append(digit - 1)
    return tokens[::-1]
