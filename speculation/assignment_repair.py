"""The second half of `assignment`: from too many sequences on some drafters to the best assignment that fits.

Successive shortest paths of min-cost flow (Ahuja, Magnanti and Orlin, "Network Flows", 1993, chapter 9.7), on a graph
with one node for each drafter and one for "nobody": the edge from a to b costs what the sequence loses that loses least
by going from a to b. Sequences need no nodes of their own, for a path that would use one of them twice has a shortcut.
The start is the best state with its own imbalance (it came from prices), each step along a shortest path keeps it
that, and removes one sequence from where it is too many; so at the end it is the best state without imbalance. The
graph has no circle of negative cost at any time, so Bellman and Ford's method finds the paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["repair"]

_ROUNDING = 1e-10  # paths that differ by less, as a part of the largest gain, are equal: else rounding closes circles


def repair(
    chosen: NDArray[np.bool_],  # [num_sequences, num_drafters]; changed in place
    num_placed: NDArray[np.int64],  # [num_drafters]: how many of its sequences each drafter has slots for
    gains: NDArray[np.float64],  # [num_sequences, num_drafters]
    slot_costs: Sequence[NDArray[np.float64]],  # for each drafter [capacity]
    handicaps: NDArray[np.float64],  # [num_sequences, most drafters of one]
) -> None:
    """Moves one sequence at a time out of where there are too many."""
    nobody = gains.shape[1]
    graph = _Moves(
        gains=gains,
        handicaps=handicaps,
        chosen=chosen,
        others=np.where(chosen, -np.inf, gains),
        num_chosen=chosen.sum(axis=1, dtype=np.int64),
        costs=np.full((nobody + 1, nobody + 1), np.inf),
        rounding=_ROUNDING * float(np.abs(gains[np.isfinite(gains)]).max(initial=0.0)),
    )
    for node in range(nobody + 1):
        graph.refresh(node)
    num_too_many = chosen.sum(axis=0) - num_placed
    placed = num_placed.tolist()
    end_costs = np.array([*(_cost_of_slot(*slot) for slot in zip(slot_costs, placed, strict=True)), 0.0])
    for _ in range(int(num_too_many.sum())):
        path = graph.shortest_path(num_too_many > 0, end_costs)
        graph.follow(path)
        num_too_many[path[0]] -= 1
        if (last := path[-1]) != nobody:
            placed[last] += 1
            end_costs[last] = _cost_of_slot(slot_costs[last], placed[last])


def _cost_of_slot(costs: NDArray[np.float64], index: int) -> float:
    return float(costs[index]) if index < costs.size else np.inf


@dataclass(slots=True, kw_only=True)
class _Moves:
    gains: NDArray[np.float64]  # [num_sequences, num_drafters]
    handicaps: NDArray[np.float64]  # [num_sequences, most drafters of one]
    chosen: NDArray[np.bool_]  # [num_sequences, num_drafters]
    others: NDArray[np.float64]  # [num_sequences, num_drafters]: gains of what is not chosen, -inf of the rest
    num_chosen: NDArray[np.int64]  # [num_sequences]
    costs: NDArray[np.float64]  # [num_drafters + 1, num_drafters + 1]; the last node is "nobody"
    rounding: float

    def leavers(self, node: int) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Who could leave a node, what each gives up by leaving, and by having nothing instead: all [leavers]."""
        if node == self.gains.shape[1]:
            who = np.nonzero(self.num_chosen < self.handicaps.shape[1])[0]
            return who, self.handicaps[who, self.num_chosen[who]], np.full(who.size, np.inf)
        who = np.nonzero(self.chosen[:, node])[0]
        worth = self.gains[who, node]
        return who, worth, worth - self.handicaps[who, self.num_chosen[who] - 1]

    def refresh(self, node: int) -> None:
        """The edges out of one node."""
        who, worth, to_nobody = self.leavers(node)
        if who.size:
            self.costs[node, :-1] = (worth[:, None] - self.others[who]).min(axis=0)
            self.costs[node, -1] = to_nobody.min()
        else:
            self.costs[node] = np.inf

    def shortest_path(
        self,
        sources: NDArray[np.bool_],  # [num_drafters]
        end_costs: NDArray[np.float64],  # [num_drafters + 1]: of staying at each node
    ) -> list[int]:
        """From any of the sources to wherever it is cheapest to stay; always finite, for nobody turns nobody away."""
        distance = np.where(np.append(sources, False), 0.0, np.inf)
        before = np.full(distance.size, -1)
        for _ in range(distance.size):
            through = distance[:, None] + self.costs
            nearer = through.min(axis=0)
            better = nearer < distance - self.rounding
            if not bool(better.any()):
                break
            before[better] = through.argmin(axis=0)[better]
            distance[better] = nearer[better]
        path = [int((distance + end_costs).argmin())]
        while before[path[-1]] >= 0:
            path.append(int(before[path[-1]]))
        return path[::-1]

    def follow(self, path: list[int]) -> None:
        """Moves along each edge the sequence that loses least."""
        nobody = self.gains.shape[1]
        moves: list[tuple[int, int, int]] = []
        for here, there in pairwise(path):
            who, worth, to_nobody = self.leavers(here)
            losses = to_nobody if there == nobody else worth - self.others[who, there]
            moves.append((int(who[losses.argmin()]), here, there))
        touched = {nobody, *path}
        for sequence, here, there in moves:
            touched.update(np.nonzero(self.chosen[sequence])[0].tolist())
            if here != nobody:
                self.chosen[sequence, here] = False
                self.others[sequence, here] = self.gains[sequence, here]
                self.num_chosen[sequence] -= 1
            if there != nobody:
                self.chosen[sequence, there] = True
                self.others[sequence, there] = -np.inf
                self.num_chosen[sequence] += 1
        for node in touched:
            self.refresh(node)
