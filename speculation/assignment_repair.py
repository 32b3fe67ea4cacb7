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

_ROUNDING = 1e-12  # paths that differ by less are equal: else rounding could close a circle


def repair(
    chosen: NDArray[np.bool_],  # [num_sequences, num_drafters]; changed in place
    num_placed: NDArray[np.int64],  # [num_drafters]: how many of its sequences each drafter has slots for
    gains: NDArray[np.float64],  # [num_sequences, num_drafters]
    slot_costs: Sequence[NDArray[np.float64]],  # for each drafter [capacity]
    handicaps: NDArray[np.float64],  # [num_sequences, most drafters of one]
) -> None:
    """Moves one sequence at a time out of where there are too many."""
    graph = _Moves(gains, handicaps, chosen, np.full((gains.shape[1] + 1,) * 2, np.inf))
    for node in range(gains.shape[1] + 1):
        graph.refresh(node)
    placed = num_placed.copy()
    num_too_many = chosen.sum(axis=0) - placed
    while bool(num_too_many.any()):
        next_cost = [
            costs[load] if load < costs.size else np.inf for costs, load in zip(slot_costs, placed, strict=True)
        ]
        path = graph.shortest_path(num_too_many > 0, np.array([*next_cost, 0.0]))
        graph.follow(path)
        num_too_many[path[0]] -= 1
        if path[-1] < placed.size:
            placed[path[-1]] += 1


@dataclass(slots=True)
class _Moves:
    gains: NDArray[np.float64]  # [num_sequences, num_drafters]
    handicaps: NDArray[np.float64]  # [num_sequences, most drafters of one]
    chosen: NDArray[np.bool_]  # [num_sequences, num_drafters]
    costs: NDArray[np.float64]  # [num_drafters + 1, num_drafters + 1]; the last node is "nobody"

    def losses(self, node: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Who could leave a node, and what each would lose by going to every other: [movers], [movers, nodes]."""
        nobody = self.gains.shape[1]
        num_drafters = self.chosen.sum(axis=1)
        if node == nobody:
            movers = np.nonzero(num_drafters < self.handicaps.shape[1])[0]
            worth = self.handicaps[movers, num_drafters[movers]]
            to_nobody = np.full(movers.size, np.inf)
        else:
            movers = np.nonzero(self.chosen[:, node])[0]
            worth = self.gains[movers, node]
            to_nobody = worth - self.handicaps[movers, num_drafters[movers] - 1]
        elsewhere = worth[:, None] - np.where(self.chosen[movers], -np.inf, self.gains[movers])
        return movers, np.concatenate([elsewhere, to_nobody[:, None]], axis=1)

    def refresh(self, node: int) -> None:
        """The edges out of one node."""
        movers, losses = self.losses(node)
        self.costs[node] = losses.min(axis=0) if movers.size else np.inf

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
            better = nearer < distance - _ROUNDING
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
            movers, losses = self.losses(here)
            moves.append((int(movers[losses[:, there].argmin()]), here, there))
        touched = {nobody, *path}
        for sequence, here, there in moves:
            touched.update(np.nonzero(self.chosen[sequence])[0].tolist())
            if here != nobody:
                self.chosen[sequence, here] = False
            if there != nobody:
                self.chosen[sequence, there] = True
        for node in touched:
            self.refresh(node)
