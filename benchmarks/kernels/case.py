"""What every kernel benchmark measures: the fast form and the reference on the same input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Case"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One input; `num_bytes` is what has to be read at least, 0 where that is not the limit."""

    name: str
    fast: Callable[[], object]
    reference: Callable[[], object]
    num_bytes: int = 0
