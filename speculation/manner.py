"""In what manner a fleet drafts for sequences; which one pays is found by trying (`ways`)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["DraftingWay", "Manner"]


class Manner(StrEnum):
    """How sequences are drafted for at present. A mode says which of these it may use."""

    PLAIN = "plain"
    IN_TURN = "in_turn"
    AHEAD = "ahead"


@dataclass(frozen=True, slots=True)
class DraftingWay:
    """A manner, and how many drafters a sequence may have in it."""

    manner: Manner
    most_drafters: int = 1
