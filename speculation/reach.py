"""How far drafting reaches while the target waits for it: below which nodes another draft step pays.

A step that looks below a node finds, with luck, one more token; meanwhile the target stands still, and what is found
costs a row of the round. At the best length of a draft, tokens come at some rate; a step is worth its time where what
it may bring, the node's value times the drafter's agreement, is more than that rate brings meanwhile. So an unsure
draft ends early and a sure one goes on: the rule that gives a draft of fixed length its best one, asked at every node
anew. (EAGLE-2, arXiv 2406.16858, and SpecDec++, 2405.19715, stop by confidence too, at a threshold that somebody tuned;
this one follows from what steps and rows cost.)

Sequences that draft together share a step, and so its price: each pays for the time that it waits itself. The values
that drafters compare are products of their own confidences, which nobody calibrates for them; `scores.py` makes them
nearly right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from contracts.errors import InvalidArgument

__all__ = ["ALL", "Reach", "reach"]

_LEAST_AGREEMENT = 0.05  # a drafter that is never right is not asked again and again what comes after


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """From which value on a node is worth a step below it, from 0 to 1, and how many steps that makes on average;
    None where nobody can say."""

    least_value: float = 0.0
    num_steps: int | None = None


ALL = Reach()
"""As far as is asked for."""


def reach(*, agreement: float, step_s: float, link_s: float, rounds_s: Sequence[float]) -> Reach:
    """`rounds_s` says what a round takes with so many nodes of each sequence in it: 0, 1, and so on up to the most."""
    if not (0.0 <= agreement <= 1.0 and step_s >= 0.0 and link_s >= 0.0 and len(rounds_s) >= 2):
        raise InvalidArgument(
            f"drafting has agreement {agreement}, step_s {step_s}, link_s {link_s}, {len(rounds_s)} rounds; an "
            "agreement is from 0 to 1, times are not negative, and there are two rounds or more"
        )
    tokens = power = 1.0
    rate, best = tokens / rounds_s[0], 1
    for num_steps, round_s in enumerate(rounds_s[1:], start=1):
        power *= agreement
        tokens += power
        lasts_s = link_s + num_steps * step_s + round_s
        if tokens > rate * lasts_s:
            rate, best = tokens / lasts_s, num_steps
    row_s = (rounds_s[best] - rounds_s[0]) / best
    worth = rate * (step_s + row_s) / max(agreement, _LEAST_AGREEMENT)
    return Reach(least_value=min(worth, 1.0), num_steps=best)
