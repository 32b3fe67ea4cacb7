"""Who drafts for whom: the assignment of sequences to drafters that gains most in total, under capacity.

    maximise  sum of gains[s, d] over the pairs chosen
              - sum over drafters d of its cheapest slot costs, one for each sequence it gets
              - sum over sequences s of handicaps[s, 0], ... one for each drafter it gets

A drafter's slot costs rise (each more sequence slows the others down) and end at its capacity; a sequence's handicaps
rise (the second drafter's tokens are mostly those of the first), which is how diminishing returns enter. Both being
convex, this is a min-cost flow: its best solution is integral, and there are no local optima to be caught in. A greedy
loop (best pair first) fails when the favourite of two has room for one: it gives it to the one who gains most there,
rather than to the one who would lose most elsewhere. That is why SPIN (arXiv 2503.15921) uses a weighted matching.

Solved in two steps, both exact:

1. *Prices rise.* Every sequence picks its best drafters under prices. A drafter with more takers than slots at its
   price raises it to where the two meet. A sequence's wishes are gross substitutes (a dearer drafter never makes
   another less wanted), so prices only rise, and a drafter whose price rose stays full. If all fit, this is the best
   assignment: no sequence wants anything else at these prices, and whatever has a price above its cost is full.
   (Demange, Gale and Sotomayor, "Multi-Item Auctions", 1986.)
2. *Repair* (`assignment_repair`). Ties can make prices stand still while sequences go round. After a bounded number of
   raises those that are too many are moved out along shortest paths, which takes any such state to the best one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.errors import InvalidArgument
from speculation.assignment_repair import repair

__all__ = ["assign", "total_gain"]

_RAISES_PER_DRAFTER = 4


def assign(
    gains: NDArray[np.float64],  # [num_sequences, num_drafters]; -inf where a pair is impossible
    slot_costs: Sequence[NDArray[np.float64]],  # for each drafter [capacity], not falling
    handicaps: NDArray[np.float64],  # [num_sequences, most drafters of one], not falling along a row
) -> NDArray[np.bool_]:
    """The pairs chosen, bool [num_sequences, num_drafters]. Pairs that gain nothing are left out."""
    _check(gains, slot_costs, handicaps)
    if gains.shape[0] == 0 or gains.shape[1] == 0 or handicaps.shape[1] == 0:
        return np.zeros(gains.shape, dtype=bool)
    market = _Market.open(gains, slot_costs, handicaps)
    for _ in range(_RAISES_PER_DRAFTER * gains.shape[1]):
        drafter = market.most_wanted()
        if drafter is None:
            return market.chosen
        market.raise_price(drafter)
    repair(market.chosen, np.minimum(market.num_open, market.num_takers), gains, slot_costs, handicaps)
    return market.chosen


def total_gain(
    chosen: NDArray[np.bool_],  # [num_sequences, num_drafters]
    gains: NDArray[np.float64],  # [num_sequences, num_drafters]
    slot_costs: Sequence[NDArray[np.float64]],  # for each drafter [capacity]
    handicaps: NDArray[np.float64],  # [num_sequences, most drafters of one]
) -> float:
    """What `assign` maximises."""
    costs = sum(float(costs[:load].sum()) for costs, load in zip(slot_costs, chosen.sum(axis=0).tolist(), strict=True))
    places = np.arange(handicaps.shape[1]) < chosen.sum(axis=1)[:, None]
    return float(gains[chosen].sum()) - costs - float(handicaps[places].sum())


@dataclass(slots=True)
class _Market:
    gains: NDArray[np.float64]  # [num_sequences, num_drafters]
    slot_costs: Sequence[NDArray[np.float64]]
    handicaps: NDArray[np.float64]  # [num_sequences, most drafters of one]
    prices: NDArray[np.float64]  # [num_drafters]
    chosen: NDArray[np.bool_]  # [num_sequences, num_drafters]
    others: NDArray[
        np.float64
    ]  # [num_sequences, num_drafters]: gain less price of what is not chosen, -inf of the rest
    num_chosen: NDArray[np.int64]  # [num_sequences]
    num_takers: NDArray[np.int64]  # [num_drafters]
    num_open: NDArray[np.int64]  # [num_drafters]: slots that cost no more than the price

    @classmethod
    def open(
        cls,
        gains: NDArray[np.float64],  # [num_sequences, num_drafters]
        slot_costs: Sequence[NDArray[np.float64]],
        handicaps: NDArray[np.float64],  # [num_sequences, most drafters of one]
    ) -> _Market:
        """Every drafter at the price of its cheapest slot, every sequence with what it likes best."""
        prices = np.array([costs[0] if costs.size else np.inf for costs in slot_costs])
        net = gains - prices
        most = min(handicaps.shape[1], gains.shape[1])
        order = np.argsort(-net, axis=1, kind="stable")[:, :most]
        wanted = np.take_along_axis(net, order, axis=1) > handicaps[:, :most]
        chosen = np.zeros(gains.shape, dtype=bool)
        np.put_along_axis(chosen, order, wanted, axis=1)
        return cls(
            gains=gains,
            slot_costs=slot_costs,
            handicaps=handicaps,
            prices=prices,
            chosen=chosen,
            others=np.where(chosen, -np.inf, net),
            num_chosen=chosen.sum(axis=1, dtype=np.int64),
            num_takers=chosen.sum(axis=0, dtype=np.int64),
            num_open=np.array([_num_open(costs, price) for costs, price in zip(slot_costs, prices, strict=True)]),
        )

    def most_wanted(self) -> int | None:
        """The drafter with most sequences too many, None when all fit."""
        too_many = self.num_takers - self.num_open
        drafter = int(too_many.argmax())
        return drafter if too_many[drafter] > 0 else None

    def raise_price(self, drafter: int) -> None:
        """To where takers and slots meet; who finds that too dear takes the next best."""
        takers = np.nonzero(self.chosen[:, drafter])[0]
        others = self.others[takers]  # [takers, num_drafters]
        next_best = others.argmax(axis=1)
        next_net = others[np.arange(takers.size), next_best]
        last_handicap = self.handicaps[takers, self.num_chosen[takers] - 1]
        # Without it, a taker has the next best instead, or one drafter fewer and its last handicap saved.
        worth = self.gains[takers, drafter] - np.maximum(last_handicap, next_net)
        order = np.argsort(-worth, kind="stable")
        costs = self.slot_costs[drafter][: takers.size]
        num_kept = int((worth[order[: costs.size]] >= costs).sum())  # worth falls and costs rise: a prefix
        # Of all prices at which they meet the highest (the last one kept would as soon go): that makes large steps.
        if num_kept > 0:
            next_cost = self.slot_costs[drafter][num_kept : num_kept + 1]
            price = min([float(worth[order[num_kept - 1]]), *next_cost.tolist()])
        else:
            price = float(worth[order[0]])
        self._set_price(drafter, max(price, float(self.prices[drafter])))
        leaving = order[num_kept:]
        self._drop(takers[leaving], drafter)
        moving = leaving[next_net[leaving] > last_handicap[leaving]]
        self._take(takers[moving], next_best[moving])

    def _set_price(self, drafter: int, price: float) -> None:
        self.prices[drafter] = price
        self.num_open[drafter] = _num_open(self.slot_costs[drafter], price)
        net = self.gains[:, drafter] - price
        self.others[:, drafter] = np.where(self.chosen[:, drafter], -np.inf, net)

    def _drop(self, sequences: NDArray[np.int64], drafter: int) -> None:
        self.chosen[sequences, drafter] = False
        self.others[sequences, drafter] = self.gains[sequences, drafter] - self.prices[drafter]
        self.num_chosen[sequences] -= 1
        self.num_takers[drafter] -= sequences.size

    def _take(self, sequences: NDArray[np.int64], drafters: NDArray[np.int64]) -> None:
        self.chosen[sequences, drafters] = True
        self.others[sequences, drafters] = -np.inf
        self.num_chosen[sequences] += 1
        self.num_takers += np.bincount(drafters, minlength=self.num_takers.size)


def _num_open(costs: NDArray[np.float64], price: float) -> int:
    return int(costs.searchsorted(price, side="right"))


def _check(
    gains: NDArray[np.float64],  # [num_sequences, num_drafters]
    slot_costs: Sequence[NDArray[np.float64]],
    handicaps: NDArray[np.float64],  # [num_sequences, most drafters of one]
) -> None:
    if gains.ndim != 2 or handicaps.ndim != 2 or handicaps.shape[0] != gains.shape[0]:
        raise InvalidArgument(
            f"gains have shape {gains.shape} and handicaps {handicaps.shape}; both have one row for each sequence"
        )
    if len(slot_costs) != gains.shape[1]:
        raise InvalidArgument(f"there are slot costs of {len(slot_costs)} drafters and gains of {gains.shape[1]}")
    if bool(np.isnan(gains).any()) or bool((gains == np.inf).any()):
        raise InvalidArgument("a gain is NaN or infinite; right are finite gains, or -inf where a pair is impossible")
    for what, rows in (("slot costs", list(slot_costs)), ("handicaps", list(handicaps))):
        for row in rows:
            if not bool(np.isfinite(row).all()) or bool((np.diff(row) < 0.0).any()):
                raise InvalidArgument(f"{what} are {row[:8].tolist()}; right are finite numbers that do not fall")
