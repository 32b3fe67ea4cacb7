"""From what the engine proposes at one place to the children of that place, each with a raw confidence."""

from __future__ import annotations

import math
from collections.abc import Sequence

from engine.work import Candidate
from speculation.scores import raw_scores

__all__ = ["Scored", "scored"]

Scored = tuple[tuple[int, float], ...]
"""Tokens that may come next with their confidences, the model's own choice first."""


def scored(candidates: Sequence[Candidate], *, temperature: float, width: int) -> Scored:
    """The candidates of one place, which was asked for `width` of them.

    Scores look at one candidate at a time, but the target picks one at most: where they add up to more than one, all
    are scaled alike. Where fewer came than were asked for (the request allows no other token), one of them it is: they
    share the whole chance. Logits that are no numbers say nothing.
    """
    if not all(math.isfinite(candidate.value) for candidate in candidates):
        return ()
    scores = raw_scores([candidate.value for candidate in candidates], temperature=temperature)
    total = math.fsum(scores)
    if total > 1.0 or (len(scores) < width and total > 0.0):
        scores = [score / total for score in scores]
    return tuple((candidate.token, score) for candidate, score in zip(candidates, scores, strict=True))
