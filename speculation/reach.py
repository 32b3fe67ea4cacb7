"""How far drafting reaches while the target waits for it: below which nodes another draft step pays.

A step that looks below a node finds, with luck, one more token; meanwhile the target stands still, and what is found
costs a row of the round. At the best length of a draft, tokens come at some rate; a step is worth its time where what
it may bring, the node's value times the drafter's agreement, is more than that rate brings meanwhile. So an unsure
draft ends early and a sure one goes on: the rule that gives a draft of fixed length its best one, asked at every node
anew. (EAGLE-2, arXiv 2406.16858, and SpecDec++, 2405.19715, stop by confidence too, at a threshold that somebody tuned;
this one follows from what steps and rows cost.)

Sequences that draft together share a step, and so its price: each pays for the time that it waits itself.
"""

from __future__ import annotations

from contracts.errors import InvalidArgument
from speculation.cost import StepCost

__all__ = ["least_value"]

_LEAST_AGREEMENT = 0.05  # a drafter that is never right is not asked again and again what comes after


def least_value(
    *,
    agreement: float,
    step_s: float,
    link_s: float,
    cost: StepCost,
    num_context: int,
    num_sequences: int,
    max_draft: int,
) -> float:
    """The value from which on a node is worth a step below it, from 0 to 1.

    `num_context` tokens are in each of `num_sequences` that wait together, and each drafts at most `max_draft`.
    """
    if not (0.0 <= agreement <= 1.0 and step_s >= 0.0 and link_s >= 0.0 and num_sequences >= 1 and max_draft >= 1):
        raise InvalidArgument(
            f"drafting has agreement {agreement}, step_s {step_s}, link_s {link_s}, num_sequences {num_sequences}, "
            f"max_draft {max_draft}; an agreement is from 0 to 1, times are not negative, and counts 1 or more"
        )

    def round_s(num_draft: int) -> float:
        num_rows = num_sequences * (1 + num_draft)
        return cost.cost_s(num_rows, num_rows * num_context)

    tokens = power = 1.0
    plain_s = round_s(0)
    rate, best = tokens / plain_s, 1
    for num_draft in range(1, max_draft + 1):
        power *= agreement
        tokens += power
        lasts_s = link_s + num_draft * step_s + round_s(num_draft)
        if tokens > rate * lasts_s:
            rate, best = tokens / lasts_s, num_draft
    row_s = (round_s(best) - plain_s) / best
    return min(rate * (step_s + row_s) / max(agreement, _LEAST_AGREEMENT), 1.0)
