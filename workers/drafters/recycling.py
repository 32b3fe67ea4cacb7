"""Token recycling: each token's row holds the target's most recent best choices after it (arXiv 2408.08696).

The rule of "Turning Trash into Treasure": an adjacency matrix with one row of k candidates for each token. Whenever the
target computes a row of logits after a token, its k best become that token's row, replacing what was there. A draft is
a tree of fixed shape, filled breadth first: a node's children are the first candidates of its token's row, better ranks
getting more and deeper children.

Why it is right: a candidate that was not chosen here is often chosen at the next place, and which tokens can follow a
token at all changes slowly. The tree's shape is fixed because rank, not probability, is all that the matrix keeps.

Ours, where the paper leaves room: where the target's candidates are not known, the token that it chose moves to the
front of the row; rows live in a table bounded in bytes instead of a matrix of the whole vocabulary; the shape is the
best tree under chances that fall with the rank; the confidence of a rank is how often the target chose it, by count.
"""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar

from contracts.errors import InvalidArgument
from contracts.types import ROOT, TokenLogprob
from workers.drafters.growth import Grown, grow
from workers.drafters.memory import Memory, MemoryDrafter
from workers.drafters.plain_data import integer, integers, items, member, number
from workers.drafters.row_table import RowTable
from workers.drafters.text import Text

__all__ = ["Recycling", "RecyclingMemory", "tree_shape"]

NUM_RANKS = 8
MAX_DEPTH = 8
# Chances of a rank before anything was counted: the shape of the tree, and the start of the confidences. Made by the
# rule that each rank has 45 % of what better ones left; they stay below one in sum.
RANK_CHANCES = tuple(0.45 * 0.55**rank for rank in range(NUM_RANKS))
PRIOR_WEIGHT = 16.0  # rows that the chances above count for
MAX_WEIGHT = 4096.0  # rows after which old counts begin to fade: rank statistics change slowly
_LARGEST_COUNT = 2**53  # the largest integer that all readers of JSON agree about

RankedRow = tuple[int, tuple[int, ...]]
"""How often a row was written, and its candidates, best first."""


def _bytes_of(row: RankedRow) -> int:
    return 320 + 40 * len(row[1])  # two tuples, two integers and a place in the dict; an integer and its slot each


@lru_cache(maxsize=256)
def tree_shape(num_nodes: int) -> tuple[tuple[int, int], ...]:
    """The fixed tree of a size as (parent, rank), breadth first: the best one if the chances of ranks held everywhere.

    >>> tree_shape(4)
    ((-1, 0), (-1, 1), (0, 0), (-1, 2))
    """
    best = grow(0, lambda _, depth: [(rank, chance, 0) for rank, chance in enumerate(RANK_CHANCES)], num_nodes,
                max_depth=MAX_DEPTH)  # fmt: skip
    depths: list[int] = []
    for node in best:
        depths.append(0 if node.parent == ROOT else depths[node.parent] + 1)
    order = sorted(range(len(best)), key=lambda index: depths[index])
    place = {ROOT: ROOT} | {index: new for new, index in enumerate(order)}
    return tuple((place[best[index].parent], best[index].token) for index in order)


class RecyclingMemory(Memory):
    """The rows of one tenant, and how often each rank was chosen."""

    def __init__(self, *, vocab_size: int, max_bytes: int) -> None:
        self.vocab_size = vocab_size
        self._rows: RowTable[RankedRow] = RowTable(max_bytes=max_bytes, bytes_of=_bytes_of)
        self._tested = [0.0] * NUM_RANKS  # decisions at which the row had this rank
        self._chosen = [0.0] * NUM_RANKS  # those at which it was the target's choice

    @property
    def num_bytes(self) -> int:
        return self._rows.num_bytes

    def read(self, text: Text) -> None:
        previous = ROOT
        for token in text.tokens:
            if previous != ROOT:
                self._write(previous, (token,))
            previous = token

    def learn(self, text: Text, first: int, logprobs: tuple[TokenLogprob, ...]) -> None:
        for index in range(max(first, 1), len(text.tokens)):
            previous, token = text.tokens[index - 1], text.tokens[index]
            self._count_rank(previous, token)
            top = logprobs[index - first].top if logprobs else ()
            self._write(previous, tuple(dict.fromkeys(candidate for candidate, _ in top[:NUM_RANKS])) or (token,))

    def tree(self, text: Text, num_nodes: int, below: tuple[int, ...]) -> list[Grown]:
        ending = text.tail(1, below)
        if not ending:
            return []
        confidences = self.rank_confidences()
        grown: list[Grown] = []
        place: list[int | None] = []  # of each node of the shape in the tree; None where the row was too short
        for parent, rank in tree_shape(num_nodes):
            at = ROOT if parent == ROOT else place[parent]
            row = None if at is None else self._rows.get(ending[0] if at == ROOT else grown[at].token)
            if at is None or row is None or rank >= len(row[1]):
                place.append(None)
            else:
                place.append(len(grown))
                grown.append(Grown(row[1][rank], at, confidences[rank]))
        return grown

    def rank_confidences(self) -> list[float]:
        """The chance of each rank, by count; never more than one together."""
        confidences = [
            (chosen + PRIOR_WEIGHT * chance) / (tested + PRIOR_WEIGHT)
            for chosen, tested, chance in zip(self._chosen, self._tested, RANK_CHANCES, strict=True)
        ]
        # Short rows test the first ranks more often than the last ones, so the sum is not bounded by itself.
        return [confidence / max(sum(confidences), 1.0) for confidence in confidences]

    def _count_rank(self, previous: int, token: int) -> None:
        row = self._rows.get(previous)
        if row is None:
            return
        for rank, candidate in enumerate(row[1]):
            self._tested[rank] += 1.0
            if candidate == token:
                self._chosen[rank] += 1.0
        if self._tested[0] > MAX_WEIGHT:
            self._tested = [0.5 * weight for weight in self._tested]
            self._chosen = [0.5 * weight for weight in self._chosen]

    def _write(self, previous: int, front: tuple[int, ...]) -> None:
        """These candidates first, then the old ones that are not among them: a full row replaces the old one."""
        num_written, old = self._rows.get(previous) or (0, ())
        row = front + tuple(token for token in old if token not in front)
        self._rows.put(previous, (min(num_written + 1, _LARGEST_COUNT), row[:NUM_RANKS]))

    def to_data(self) -> dict[str, object]:
        return {
            "rows": [[token, num_written, list(row)] for token, (num_written, row) in self._rows.items()],
            "ranks": [[tested, chosen] for tested, chosen in zip(self._tested, self._chosen, strict=True)],
        }

    def merge(self, data: object) -> None:
        """Of two rows of a token the one written more often stays, and of two counts of a rank the larger: it does
        not matter in which order snapshots are merged, nor how often."""
        rows = [self._read_row(row) for row in items(member(data, "rows"), "rows", most=self.vocab_size)]
        ranks = [
            items(pair, "a rank", least=2, most=2)
            for pair in items(member(data, "ranks"), "ranks", least=NUM_RANKS, most=NUM_RANKS)
        ]
        counts = [number(tested, "a rank's count", 0.0, MAX_WEIGHT) for tested, _ in ranks]
        chosen = [
            number(amount, "a rank's choices", 0.0, tested) for (_, amount), tested in zip(ranks, counts, strict=True)
        ]
        for token, row in rows:
            mine = self._rows.get(token)
            self._rows.put(token, row if mine is None else max(mine, row))
        for rank, theirs in enumerate(zip(counts, chosen, strict=True)):
            self._tested[rank], self._chosen[rank] = max((self._tested[rank], self._chosen[rank]), theirs)

    def _read_row(self, row: object) -> tuple[int, RankedRow]:
        token, num_written, candidates = items(row, "a row", least=3, most=3)
        found = integers(candidates, "a candidate", 0, self.vocab_size - 1, least=1, most=NUM_RANKS)
        if len(set(found)) != len(found):
            raise InvalidArgument(f"snapshot has a row {found} that names a candidate twice; each may appear once")
        return (
            integer(token, "a row's token", 0, self.vocab_size - 1),
            (integer(num_written, "a row's count", 1, _LARGEST_COUNT), tuple(found)),
        )


class Recycling(MemoryDrafter[RecyclingMemory]):
    """See the module."""

    kind: ClassVar[str] = "recycling"
    num_logprobs: ClassVar[int] = NUM_RANKS

    def _new_memory(self) -> RecyclingMemory:
        return RecyclingMemory(vocab_size=self.vocab_size, max_bytes=self.max_tenant_bytes)
