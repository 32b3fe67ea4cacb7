"""In what manner a fleet drafts for sequences, and in what company; which of them pays is found by trying (`ways`)."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Company", "Manner"]


class Manner(StrEnum):
    """How sequences are drafted for at present. A mode says which of these it may use."""

    PLAIN = "plain"
    IN_TURN = "in_turn"
    AHEAD = "ahead"


class Company(StrEnum):
    """Whether a sequence has one drafter or as many as mode and load allow."""

    ALONE = "alone"
    TOGETHER = "together"
