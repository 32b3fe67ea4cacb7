"""What a round checks: the nodes of all ready sequences compete by value, until more of them would slow the fleet down.

Maximise the expected committed tokens per second of the round,

    (number of sequences + sum of the values of the chosen nodes) / cost(rows, context)

A value is the chance that the target's choices lead to the node, so by linearity of expectation the sum is the expected
number of accepted nodes whatever their dependence, and each sequence gets the target's own token besides. For a given
number of rows the best set is that of the highest values; each tree's values fall along its paths, so that set is a
connected frontier in every tree. It remains to choose the number. The cost has steps, so the rate can dip and rise
again: all prefixes of the value-ordered list are looked at, up to where even taking every allowed row at the last value
for the cost so far could not beat the best. (Context is counted in the cost, not in the order: rows of one batch differ
little in what they add.) This is TETRIS's heap (arXiv 2502.15197) priced by goodput as in SmartSpec (2406.14066).

*Deadlines and priorities first*: before the free choice each sequence that has to keep a pace takes its best nodes
until it can expect the tokens it needs, in order of priority (AdaServe, 2501.12162: A(r) = (l + t_spec) / TPOT - o).

*Steadiness*: among the numbers of nodes whose rate is within a small part of the best, the one nearest to the last
round's goes. Noise in costs then does not make frontiers flap, and the loss is bounded by that part.

*Caution*: the nodes that are taken are those that look best, and of figures that are all a little wrong the highest are
mostly too high. So a free node counts for a small part less than its value. Where nodes pay well that changes nothing;
where rows are so dear that only near certainty pays, it keeps the plain step.

*Zero is allowed*: a prefix of none is plain decoding, and where drafts are worthless or rows are dear it wins.

*Non-anticipating*: the choice depends on values, which were known before the round, and on costs. It never looks at the
target's noise nor at anything that the verifier knows about the round (DSpark, 2607.05147). With shared noise the
output would be the same anyhow.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from contracts.errors import InvalidArgument
from contracts.types import SequenceId
from speculation.cost import StepCost

__all__ = ["Ready", "RoundBudget", "RoundPlan", "ValuedNode", "tokens_needed"]

_CHUNK = 64
_WORTHLESS = 1e-4  # one token in ten thousand rows pays on no machine


class ValuedNode(Protocol):
    """A draft node as a token tree gives it."""

    @property
    def id(self) -> int:
        """The tree's name for it."""
        ...

    @property
    def value(self) -> float:
        """The chance that the target's choices lead to it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A sequence that could go. `nodes` come by falling value, parents first (`TokenTree.by_value`), and are read only
    as far as they can matter. `needed_tokens` is what its pace asks of this round, see `tokens_needed`."""

    sequence: SequenceId
    context: int
    nodes: Iterable[ValuedNode] = ()
    num_base_rows: int = 1
    """Rows that it has without any node: the last committed token, and others not computed yet."""
    max_nodes: int = 1_000_000
    needed_tokens: float = 0.0
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundPlan:
    """`nodes` has an entry for each sequence that goes, empty for a plain step, in the order of the tree's values."""

    nodes: Mapping[SequenceId, tuple[int, ...]]
    num_rows: int
    num_context: int
    expected_tokens: float
    expected_s: float
    waiting: tuple[SequenceId, ...] = ()
    """Those that found no room for their base rows."""

    @property
    def tokens_per_s(self) -> float:
        return self.expected_tokens / self.expected_s if self.expected_tokens > 0.0 else 0.0


def tokens_needed(*, num_committed: float, elapsed_s: float, round_s: float, s_per_token: float) -> float:
    """AdaServe's floor: what a sequence must have committed when this round ends, less what it has."""
    return max((elapsed_s + round_s) / s_per_token - num_committed, 0.0)


@dataclass(slots=True)
class _Share:
    """One sequence in the making of a round."""

    ready: Ready
    left: Iterator[ValuedNode]
    ids: list[int] = field(default_factory=list)
    last_value: float = 1.0
    num_read: int = 0

    def next_node(self) -> tuple[float, int] | None:
        """Value and id of its next node, None when there is no more to be had."""
        node = next(self.left, None) if self.num_read < self.ready.max_nodes else None
        if node is None:
            return None
        self.num_read += 1
        if not 0.0 <= node.value <= 1.0:  # NaN fails this too
            raise InvalidArgument(
                f"node {node.id} of {self.ready.sequence} has value {node.value}; it lies between 0 and 1"
            )
        self.last_value = min(self.last_value, node.value)
        return (self.last_value, node.id) if self.last_value > _WORTHLESS else None


class RoundBudget:
    """See the module. Remembers the last round's length only. `max_rows` may be set anew for each round; `overhead_s`
    is what a round takes besides its step."""

    def __init__(
        self, *, max_rows: int, overhead_s: float = 0.0, steadiness: float = 0.0005, caution: float = 0.1
    ) -> None:
        parts = (steadiness, caution)
        if max_rows < 1 or not 0.0 <= overhead_s < math.inf or not all(0.0 <= part < 1.0 for part in parts):
            raise InvalidArgument(
                f"a budget has max_rows {max_rows}, overhead_s {overhead_s}, steadiness {steadiness}, caution "
                f"{caution}; right are 1 or more, a finite time from 0, and parts from 0 to below 1"
            )
        self.max_rows, self.overhead_s, self.steadiness = max_rows, overhead_s, steadiness
        self._counts_for = 1.0 - caution  # what part of its value a free node counts for
        self._last_length = 0.0  # free nodes of a sequence in the last round

    def choose(self, ready: Sequence[Ready], cost: StepCost) -> RoundPlan:
        """The next round."""
        shares, waiting = self._admit(ready)
        if not shares:
            return RoundPlan(nodes={}, num_rows=0, num_context=0, expected_tokens=0.0, expected_s=0.0, waiting=waiting)
        num_rows = sum(share.ready.num_base_rows for share in shares)
        num_context = sum(share.ready.num_base_rows * share.ready.context for share in shares)
        tokens = float(len(shares))
        heads: list[tuple[float, int, int]] = []
        for index, share in enumerate(shares):
            needed, expected = share.ready.needed_tokens, 1.0
            head = share.next_node()
            while head is not None and expected < needed and num_rows < self.max_rows:
                share.ids.append(head[1])
                expected += head[0]
                num_rows += 1
                num_context += share.ready.context + 1
                head = share.next_node()
            tokens += expected - 1.0
            if head is not None:
                heads.append((-head[0], index, head[1]))
        heapq.heapify(heads)
        num_rows, num_context, tokens, expected_s = self._spend(shares, heads, num_rows, num_context, tokens, cost)
        return RoundPlan(
            nodes={share.ready.sequence: tuple(share.ids) for share in shares},
            num_rows=num_rows,
            num_context=num_context,
            expected_tokens=tokens,
            expected_s=expected_s,
            waiting=waiting,
        )

    def _admit(self, ready: Sequence[Ready]) -> tuple[list[_Share], tuple[SequenceId, ...]]:
        """As many as have room for their base rows, the most urgent first."""
        order = sorted(ready, key=lambda each: (-each.priority, -each.needed_tokens))
        shares: list[_Share] = []
        waiting: list[SequenceId] = []
        room = self.max_rows
        for each in order:
            if each.num_base_rows <= room:
                room -= each.num_base_rows
                shares.append(_Share(each, iter(each.nodes)))
            else:
                waiting.append(each.sequence)
        return shares, tuple(waiting)

    def _spend(
        self,
        shares: list[_Share],
        heads: list[tuple[float, int, int]],
        num_rows: int,
        num_context: int,
        tokens: float,
        cost: StepCost,
    ) -> tuple[int, int, float, float]:
        """The free part: how long a prefix of all that is left, by value. Rows, context, tokens and time with it."""
        lengths: list[_Prefix] = [_Prefix(num_rows, num_context, tokens, -1, -1)]
        costs = [cost.cost_s(num_rows, num_context) + self.overhead_s]
        best = tokens / costs[0]
        while heads:
            first = len(lengths)
            self._pull(shares, heads, lengths)
            rows = np.array([prefix.num_rows for prefix in lengths[first:]], dtype=np.float64)
            contexts = np.array([prefix.num_context for prefix in lengths[first:]], dtype=np.float64)
            if rows.size == 0:
                break
            added = cost.costs_s(rows, contexts) + self.overhead_s
            costs += added.tolist()
            counted = np.array([prefix.tokens for prefix in lengths[first:]])
            best = max(best, float((counted / added).max()))
            last = lengths[-1]
            most = -heads[0][0] * self._counts_for if heads else 0.0
            at_most = last.tokens + (self.max_rows - last.num_rows) * most
            if at_most / costs[-1] < best:
                break
        num_free = self._steady(lengths, costs, best, len(shares))
        for prefix in lengths[1 : num_free + 1]:
            shares[prefix.share].ids.append(prefix.node)
        self._last_length = num_free / len(shares)
        chosen = lengths[num_free]
        expected = tokens + (chosen.tokens - tokens) / self._counts_for
        return chosen.num_rows, chosen.num_context, expected, costs[num_free]

    def _pull(self, shares: list[_Share], heads: list[tuple[float, int, int]], lengths: list[_Prefix]) -> None:
        """Puts the next nodes by value behind the prefixes there are."""
        at = lengths[-1]
        for _ in range(_CHUNK):
            if not heads or at.num_rows >= self.max_rows:
                break
            negated, index, node = heads[0]
            share = shares[index]
            tokens = at.tokens - negated * self._counts_for
            at = _Prefix(at.num_rows + 1, at.num_context + share.ready.context + 1, tokens, index, node)
            lengths.append(at)
            head = share.next_node()
            if head is None:
                heapq.heappop(heads)
            else:
                heapq.heapreplace(heads, (-head[0], index, head[1]))
        if at.num_rows >= self.max_rows:
            heads.clear()

    def _steady(self, lengths: list[_Prefix], costs: list[float], best: float, num_sequences: int) -> int:
        """Of all lengths that are nearly the best, the nearest to the last round's; of equals the shorter."""
        enough = (1.0 - self.steadiness) * best
        wanted = self._last_length * num_sequences
        good = [n for n, prefix in enumerate(lengths) if prefix.tokens / costs[n] >= enough]
        return min(good, key=lambda n: (abs(n - wanted), n))


@dataclass(slots=True)
class _Prefix:
    """A round with the best so many free nodes, the last of which is `node` of `share`; `tokens` as they count."""

    num_rows: int
    num_context: int
    tokens: float
    share: int
    node: int
