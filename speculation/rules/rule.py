"""What every verification rule takes and gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from speculation.rules.coin import Coin
from speculation.rules.draft import SampledDraft

__all__ = ["Rule", "Settled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The accepted nodes from the root down, and the next token after them."""

    accepted: tuple[int, ...]
    next_token: int

    def committed(self, draft: SampledDraft) -> tuple[int, ...]:
        """All tokens of the round: those of the accepted nodes and the next one."""
        return (*(draft.tokens[node] for node in self.accepted), self.next_token)


Rule = Callable[[SampledDraft, Coin], Settled]
"""Settles one round of one sequence.

A rule is *exact* if what it commits, continued by the target alone, has the target's distribution, over the randomness
of draft and coin together. Nothing weaker will do: a round ends after a number of tokens that depends on them, so it is
not enough that each committed token looks right on its own.
"""
