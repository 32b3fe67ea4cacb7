"""How much one HTTP client may hold, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HttpLimits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """`head_s`: from opening a connection, or from the last answer on it, to the end of the next request's headers.
    `body_s`: for a whole body. `stall_s`: how long a reader that takes nothing is waited for, and how long one that
    does not even confirm."""

    max_body: int = 16 * 2**20
    head_s: float = 15.0
    body_s: float = 60.0
    stall_s: float = 60.0
