"""Where drafters go on while a round is in flight: steps below the tree, by what they can be expected to bring.

Below every open place of a tree (a leaf of the frontier in flight, or a sibling that lost) a drafter can draft on. The
place is where the target's choices lead with the chance of its value v. A chain of steps below it brings

    v * a,  v * a^2,  v * a^3, ...   accepted tokens, one term for each step at agreement a

Terms fall along a place, so taking the largest terms of all places, one after another, never needs a step without the
one before it, and gives the best total for any number of steps: the sum of the n largest of all terms bounds every
choice of n. That is both run-ahead of the likely (PEARL's post-verify, arXiv 2408.11850; FASER, 2604.20503) and
subtrees ready for the miss (speculative speculation, 2603.03251): a sibling of value 0.2 gets its steps before the
fifth step below a leaf of value 0.3. How many steps each outcome gets falls geometrically, as Saguaro's fan-out does.

After a miss nothing else is at hand, while after a hit the frontier is longer anyway: `miss_weight` above 1 says how
much more a token ready for a miss is worth. Non-anticipating: values only, nothing of the round in flight.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

from contracts.errors import InvalidArgument
from contracts.types import SequenceId

__all__ = ["Allotment", "OpenPlace", "allot"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenPlace:
    """A node of a tree below which nothing has been drafted yet; `is_miss` for one outside the frontier in flight."""

    sequence: SequenceId
    node: int
    value: float
    agreement: float
    is_miss: bool = False

    def __post_init__(self) -> None:
        if not (0.0 <= self.value <= 1.0 and 0.0 <= self.agreement <= 1.0):  # NaN fails this too
            raise InvalidArgument(
                f"node {self.node} of {self.sequence} has value {self.value} and agreement {self.agreement}; "
                "both lie between 0 and 1"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Allotment:
    """So many draft steps, one below the other, below a node."""

    sequence: SequenceId
    node: int
    num_steps: int


def allot(
    places: Sequence[OpenPlace],
    num_steps: int,
    *,
    max_steps_per_place: int = 16,
    miss_weight: float = 1.0,
    min_gain: float = 0.01,
) -> list[Allotment]:
    """Shares out a drafter's steps (rows of its batches) until the next would bring less than `min_gain` tokens. The
    most promising place first."""
    if num_steps < 0 or max_steps_per_place < 0 or not 0.0 <= miss_weight < math.inf:
        raise InvalidArgument(
            f"run-ahead has num_steps {num_steps}, max_steps_per_place {max_steps_per_place}, "
            f"miss_weight {miss_weight}; none is negative, and the last is finite"
        )
    heap: list[tuple[float, int]] = []
    for index, place in enumerate(places):
        gain = place.value * place.agreement * (miss_weight if place.is_miss else 1.0)
        if gain >= min_gain:
            heap.append((-gain, index))
    heapq.heapify(heap)
    steps: dict[int, int] = {}
    while heap and num_steps > 0 and max_steps_per_place > 0:
        negated, index = heap[0]
        num_steps -= 1
        steps[index] = steps.get(index, 0) + 1
        gain = -negated * places[index].agreement
        if gain >= min_gain and steps[index] < max_steps_per_place:
            heapq.heapreplace(heap, (-gain, index))
        else:
            heapq.heappop(heap)
    return [
        Allotment(sequence=places[index].sequence, node=places[index].node, num_steps=count)
        for index, count in steps.items()
    ]
