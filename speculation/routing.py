"""Which drafters draft for which sequence, by accepted tokens per second.

From agreement to speed. While the verifier checks one round, a drafter prepares the next: after `link_s` and k steps of
`step_s` it has k tokens, of which agreement a brings a + a^2 + ... + a^k (each counts only if all before it did), and
the verifier's own token comes with every round. So with k tokens a sequence commits

    (1 + a + ... + a^k) / max(round_s, link_s + k * step_s)   tokens per second

and a drafter is worth the best of that over k, less the 1 / round_s that is to be had without it. A slow expert loses
here to a fast generalist when its tokens come too late (SPIN, arXiv 2503.15921: accepted tokens per second, not
accepted length), and where waiting for it does not pay its worth is 0. The model leaves out that acceptance varies
along a text; it has to rank drafters, and frontiers are chosen by values of nodes, not by it.

*Load spreads* by slot costs: with one more sequence in its batch a drafter's step takes longer for all of them.
*Several drafters* for one sequence have diminishing returns, modelled as a handicap: the second must bring a good part
of what the best one brings before it adds anything, the third more. *Stickiness*: a drafter that does not hold the
sequence has to compute its tokens first, and gains for that much less of the time that remains; and it must be better
by a margin, lest equals swap for ever. All of it goes into one exact assignment (`assignment`).

Nothing here looks at a target's noise or at the outcome of a running round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.errors import InvalidArgument
from contracts.types import DrafterId
from speculation.assignment import assign

__all__ = ["DrafterOffer", "RoutingRules", "SequenceWish", "best_gains", "route"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterOffer:
    """A drafter as measured: time of a step alone, by how much of that each more sequence lengthens it, and so on."""

    drafter: DrafterId
    step_s: float
    link_s: float
    capacity: int
    crowding: float = 0.0
    prefill_s_per_token: float = 0.0

    def __post_init__(self) -> None:
        times = (self.step_s, self.link_s, self.crowding, self.prefill_s_per_token)
        if not (self.step_s > 0.0 and all(0.0 <= time < np.inf for time in times) and self.capacity >= 0):
            raise InvalidArgument(
                f"drafter {self.drafter} offers step_s, link_s, crowding, prefill_s_per_token {times} and capacity "
                f"{self.capacity}; right are finite numbers from 0, and step_s above it"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceWish:
    """A sequence to be routed: how each drafter would agree (in the order of the offers), and what it has now."""

    agreements: Sequence[float]
    current: frozenset[DrafterId] = frozenset()
    num_tokens: int = 0
    """Committed so far: what a new drafter has to compute first."""
    remaining_s: float = 10.0
    """How long it can be expected to go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingRules:
    """`companion_handicaps`: what the first, second, third drafter must bring before it counts, as a part of what the
    sequence's best one brings. `switch_margin`: by what part a newcomer must be better."""

    max_draft: int = 8
    companion_handicaps: tuple[float, ...] = (0.0, 0.6, 0.8, 0.9)
    switch_margin: float = 0.05
    min_gain: float = 1e-9


def best_gains(
    agreements: NDArray[np.float64],  # [..., num_drafters], from 0 to 1
    step_s: NDArray[np.float64],  # [num_drafters], or anything that broadcasts
    link_s: NDArray[np.float64],  # the same
    round_s: float,
    max_draft: int,
) -> NDArray[np.float64]:
    """Tokens per second over plain decoding, see the module: [..., num_drafters], 0 or more."""
    plain = 1.0 / round_s
    best = np.full(np.broadcast_shapes(agreements.shape, step_s.shape), plain)
    tokens, power = np.ones(agreements.shape), np.ones(agreements.shape)
    for num_draft in range(1, max_draft + 1):
        power = power * agreements
        tokens = tokens + power
        best = np.maximum(best, tokens / np.maximum(round_s, link_s + num_draft * step_s))
    gains: NDArray[np.float64] = best - plain
    return gains


def route(
    wishes: Sequence[SequenceWish],
    offers: Sequence[DrafterOffer],
    *,
    round_s: float,
    num_cooperating: int = 1,
    rules: RoutingRules | None = None,
) -> list[tuple[DrafterId, ...]]:
    """For each sequence its drafters, the one that gains most first; none where none pays."""
    rules = rules or RoutingRules()
    if not 0.0 < round_s < np.inf:
        raise InvalidArgument(f"a round takes {round_s} s; it is finite and above 0")
    if not wishes or not offers:
        return [()] * len(wishes)
    agreements = _agreements(wishes, len(offers))
    step_s = np.array([offer.step_s for offer in offers])
    link_s = np.array([offer.link_s for offer in offers])
    gains = best_gains(agreements, step_s, link_s, round_s, rules.max_draft)
    gains *= _share_left(wishes, offers, rules)
    gains = np.where(gains > rules.min_gain, gains, -np.inf)
    slot_costs = [_slot_costs(offer, agreements[:, index], round_s, rules) for index, offer in enumerate(offers)]
    parts = np.array(rules.companion_handicaps[:num_cooperating])
    handicaps = np.maximum(gains.max(axis=1), 0.0)[:, None] * parts[None, :]
    chosen = assign(gains, slot_costs, handicaps)
    answers: list[tuple[DrafterId, ...]] = []
    for row, picked in zip(gains, chosen, strict=True):
        indices = sorted(np.nonzero(picked)[0].tolist(), key=lambda index: -float(row[index]))
        answers.append(tuple(offers[index].drafter for index in indices))
    return answers


def _agreements(wishes: Sequence[SequenceWish], num_drafters: int) -> NDArray[np.float64]:
    """[num_sequences, num_drafters]."""
    if any(len(wish.agreements) != num_drafters for wish in wishes):
        raise InvalidArgument(f"a sequence has another number of agreements than the {num_drafters} drafters on offer")
    agreements = np.array([wish.agreements for wish in wishes], dtype=np.float64)
    if not bool(((agreements >= 0.0) & (agreements <= 1.0)).all()):  # NaN fails this too
        raise InvalidArgument("an agreement is not between 0 and 1")
    return agreements


def _share_left(
    wishes: Sequence[SequenceWish], offers: Sequence[DrafterOffer], rules: RoutingRules
) -> NDArray[np.float64]:
    """The part of its gain that a drafter can still bring: [num_sequences, num_drafters]."""
    num_tokens = np.array([wish.num_tokens for wish in wishes], dtype=np.float64)
    remaining_s = np.array([max(wish.remaining_s, 1e-9) for wish in wishes])
    prefill_s = np.array([offer.prefill_s_per_token for offer in offers])
    catch_up = np.maximum(1.0 - num_tokens[:, None] * prefill_s[None, :] / remaining_s[:, None], 0.0)
    is_current = np.array([[offer.drafter in wish.current for offer in offers] for wish in wishes])
    # Whoever has no drafter yet has nothing to leave, so that only the catching up counts there.
    margin = np.where(is_current.any(axis=1), 1.0 - rules.switch_margin, 1.0)
    return np.where(is_current, 1.0, catch_up * margin[:, None])


def _slot_costs(
    offer: DrafterOffer,
    agreements: NDArray[np.float64],  # [num_sequences]
    round_s: float,
    rules: RoutingRules,
) -> NDArray[np.float64]:
    """What the n-th sequence takes away from those before it and lacks itself, for one of mean agreement: [slots]."""
    num_slots = min(offer.capacity, agreements.size)
    if num_slots == 0 or offer.crowding == 0.0:
        return np.zeros(num_slots)
    load = np.arange(1, num_slots + 1)
    step_s = np.asarray(offer.step_s * (1.0 + offer.crowding * (load - 1)), dtype=np.float64)
    agreement = np.full(num_slots, float(agreements.mean()))
    each = best_gains(agreement, step_s, np.array(offer.link_s), round_s, rules.max_draft)
    added = np.diff(load * each, prepend=0.0)
    return np.maximum.accumulate(np.maximum(each[0] - added, 0.0))
