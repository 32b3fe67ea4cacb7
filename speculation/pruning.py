"""Early pruning: which rows leave the target's pass between two layers.

After some layers the hidden states are put through the output head, and a draft token that is out-ranked there by at
least K vocabulary entries is a likely reject: its row and everything below it leave the later layers (FASER, arXiv
2604.20503: entries are counted, no top-K is formed). K is larger in shallow layers, whose ranks say less. Which layers
and which K FASER uses is not known to us: here they are configured, and K is learned.

*Why the output stays right*: a pruned row decides nothing. Its node is never chosen, and the target's own choice at its
parent, whose row stayed, is committed whatever it is. So a wrong guess (a mis-prune) costs a token that would have been
accepted, never a wrong one. Rows that are no droppable nodes always stay, since later steps read their keys.

*Whether to check at all* is decided by `PruningGate` from history and numbers of rows alone: it never sees a token, a
count or anything else of the round (the non-anticipating condition of DSpark, 2607.05147). It pays where

    rows * prune rate * part of the layers that remain * cost of a row
        > check cost + rows * prune rate * mis-prune rate * cost of a token drafted again
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.errors import InvalidArgument

__all__ = ["PruneRates", "PruningGate", "PruningPolicy", "rows_that_stay"]


def rows_that_stay(
    num_above: NDArray[np.int64],  # [num_rows]: vocabulary entries that out-rank each row's own draft token
    parents: NDArray[np.int64],  # [num_rows]: index of the parent's row among these, -1 for none
    droppable: NDArray[np.bool_],  # [num_rows]: False for rows of committed tokens, prompts and the like
    max_above: int,
) -> NDArray[np.bool_]:
    """True for those that stay: bool [num_rows]. A row stays if fewer than `max_above` (K) entries out-rank it and its
    parent stays. A parent must come before its children."""
    if num_above.shape != parents.shape or num_above.shape != droppable.shape or num_above.ndim != 1:
        raise InvalidArgument(
            f"pruning got shapes {num_above.shape}, {parents.shape}, {droppable.shape}; all have one entry for each row"
        )
    if bool((parents >= np.arange(parents.size)).any()) or bool((parents < -1).any()):
        raise InvalidArgument("pruning got a row whose parent does not come before it; parents are -1 or earlier rows")
    stay = (num_above < max_above) | ~droppable
    below = np.nonzero((parents >= 0) & droppable)[0]
    while bool((lost := stay[below] & ~stay[parents[below]]).any()):  # once for each level of the deepest tree
        stay[below[lost]] = False
    return stay


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneRates:
    """Of the rows checked after a layer, the part that left; of those that left and whose fate came to be known, the
    part that the target would have chosen."""

    prune_rate: float
    misprune_rate: float
    num_checked: float


class _Layer:
    __slots__ = ("max_above", "num_checked", "num_known", "num_pruned", "num_wrong")

    def __init__(self, max_above: int) -> None:
        self.max_above = float(max_above)
        self.num_checked = self.num_pruned = self.num_known = self.num_wrong = 0.0


class PruningPolicy:
    """K for each layer, learned. `max_above` are the start values, larger or equal in shallower layers.

    A mis-prune multiplies K, a right prune divides it by a little: K is in balance where the part of mis-prunes is
    `target_misprune`, because there both happen as often as they undo each other. It stays between its bounds, and
    deeper layers never have a larger K than shallower ones.
    """

    def __init__(
        self,
        max_above: Mapping[int, int],
        *,
        target_misprune: float = 0.02,
        lowest: int = 8,
        highest: int = 4096,
        memory_rows: float = 2000.0,
    ) -> None:
        values = [max_above[layer] for layer in sorted(max_above)]
        if not values or min(max_above) < 0 or values != sorted(values, reverse=True):
            raise InvalidArgument(
                f"pruning has K by layer {dict(sorted(max_above.items()))}; right is one layer or more, from 0, "
                "and a K that does not rise with depth"
            )
        if not 1 <= lowest <= min(values) or max(values) > highest or not 0.0 < target_misprune < 1.0:
            raise InvalidArgument(
                f"pruning has K {values}, bounds {lowest} to {highest} and target_misprune {target_misprune}; "
                "right is every K within bounds from 1, and a target between 0 and 1"
            )
        self.lowest, self.highest, self.target_misprune = lowest, highest, target_misprune
        self._keep = math.exp(-1.0 / memory_rows)
        self._layers = {layer: _Layer(max_above[layer]) for layer in sorted(max_above)}

    @property
    def layers(self) -> tuple[int, ...]:
        """After which layers to look, from 0."""
        return tuple(self._layers)

    def max_above(self, layer: int) -> int:
        """K after a layer: at most that of every shallower one."""
        self._of(layer)
        return round(min(state.max_above for index, state in self._layers.items() if index <= layer))

    def stay(
        self,
        layer: int,
        num_above: NDArray[np.int64],  # [num_rows], see rows_that_stay
        parents: NDArray[np.int64],  # [num_rows]
        droppable: NDArray[np.bool_],  # [num_rows]
    ) -> NDArray[np.bool_]:
        """The decision after a layer: bool [num_rows], True for rows that stay."""
        return rows_that_stay(num_above, parents, droppable, self.max_above(layer))

    def observe_check(self, layer: int, *, num_checked: int, num_pruned: int) -> None:
        """How many droppable rows were looked at after a layer, and how many left."""
        if not 0 <= num_pruned <= num_checked:
            raise InvalidArgument(f"{num_pruned} of {num_checked} rows were pruned; right is at most all of them")
        state, keep = self._of(layer), self._keep**num_checked
        state.num_checked = state.num_checked * keep + num_checked
        state.num_pruned = state.num_pruned * keep + num_pruned

    def observe_fate(self, layer: int, *, was_wrong: bool) -> None:
        """A pruned node whose parent was accepted: whether the target's choice there was its token.

        Only these fates are known. A row that was taken along as a descendant is not to be told here.
        """
        state = self._of(layer)
        state.num_known = state.num_known * self._keep + 1.0
        state.num_wrong = state.num_wrong * self._keep + was_wrong
        up = 0.5
        down = up * self.target_misprune / (1.0 - self.target_misprune)
        moved = state.max_above * math.exp(up if was_wrong else -down)
        state.max_above = min(max(moved, float(self.lowest)), float(self.highest))

    def rates(self, layer: int) -> PruneRates:
        """To be reported."""
        state = self._of(layer)
        return PruneRates(
            prune_rate=state.num_pruned / state.num_checked if state.num_checked > 0.0 else 0.0,
            misprune_rate=state.num_wrong / state.num_known if state.num_known > 0.0 else 0.0,
            num_checked=state.num_checked,
        )

    def _of(self, layer: int) -> _Layer:
        state = self._layers.get(layer)
        if state is None:
            raise InvalidArgument(
                f"pruning knows nothing of layer {layer}; it looks after {', '.join(map(str, self.layers))}"
            )
        return state


class PruningGate:
    """Whether the next round checks after a layer; see the module. Every `probe_every`-th time it says yes anyway, for
    a rate that is never measured never changes."""

    def __init__(
        self, policy: PruningPolicy, *, num_layers: int, min_checked: float = 64.0, probe_every: int = 64
    ) -> None:
        if num_layers <= max(policy.layers) or probe_every < 1:
            raise InvalidArgument(
                f"pruning after layers {policy.layers} of {num_layers} with probe_every {probe_every}; "
                "right is layers that exist, and 1 or more"
            )
        self._policy, self._num_layers = policy, num_layers
        self._min_checked, self._probe_every = min_checked, probe_every
        self._num_asked = dict.fromkeys(policy.layers, 0)

    def saving_s(self, layer: int, *, num_rows: int, row_s: float, check_s: float, redraft_s: float) -> float:
        """Expected saving of a check after this layer: `num_rows` droppable rows, `row_s` what a row costs the whole
        pass (the cost table's marginal), `redraft_s` what it costs to get a lost token again."""
        rates = self._policy.rates(layer)
        remaining = (self._num_layers - 1 - layer) / self._num_layers
        saved = num_rows * rates.prune_rate * remaining * row_s
        lost = num_rows * rates.prune_rate * rates.misprune_rate * redraft_s
        return saved - lost - check_s

    def checks(self, layer: int, *, num_rows: int, row_s: float, check_s: float, redraft_s: float) -> bool:
        """The decision for the next round."""
        if num_rows == 0:
            return False
        saving = self.saving_s(layer, num_rows=num_rows, row_s=row_s, check_s=check_s, redraft_s=redraft_s)
        self._num_asked[layer] += 1
        unknown = self._policy.rates(layer).num_checked < self._min_checked
        return saving > 0.0 or unknown or self._num_asked[layer] % self._probe_every == 0
