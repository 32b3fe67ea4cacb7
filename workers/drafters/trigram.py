"""An adaptive tri-gram table with exploration: the target's own habits, learned while it decodes (arXiv 2407.12021).

The rule of ADED: a table of P(next | last two tokens) stands in for the target. It is updated by what the target
decides, and drafts are built by a tree search that balances what the table believes with what it has not tried
(`search.py`). Here a row forgets: each decision multiplies its weights by 1 - `FORGETTING` before it adds its own, so
the table follows the target when the subject changes, and a row's weights never exceed 1 / FORGETTING together.

A decision adds the target's probabilities of its best candidates where they are known: they say at once what it would
have taken many decisions to count. Otherwise it adds one for the token that was chosen.

Below the tri-gram row lies the row of the last token alone, joined by `growth.blend`: a pair of tokens that was seldom
seen says little.
"""

from __future__ import annotations

import math
from typing import ClassVar

from contracts.errors import InvalidArgument
from contracts.types import DrafterId, TokenLogprob
from workers.drafters.growth import Candidate, Grown, blend
from workers.drafters.memory import MAX_BYTES, MAX_TENANT_BYTES, Memory, MemoryDrafter
from workers.drafters.ngrams import context_of_key, key_of_context
from workers.drafters.plain_data import integers, items, member, number
from workers.drafters.row_table import RowTable
from workers.drafters.search import search
from workers.drafters.text import Text

__all__ = ["Trigram", "TrigramMemory"]

FORGETTING = 0.05  # twenty decisions make up most of a row
MAX_SUCCESSORS = 16
MAX_TOTAL = 1.0 / FORGETTING
CONTEXT_SIZES = (2, 1)

WeightedRow = tuple[tuple[int, float], ...]
"""Successors with their weights, best first; equals by token."""


def _bytes_of(row: WeightedRow) -> int:
    return 240 + 136 * len(row)  # a key, a place in the dict, a tuple; a pair, its integer and number each


class TrigramMemory(Memory):
    """The table of one tenant."""

    def __init__(
        self, *, vocab_size: int, max_bytes: int, max_depth: int, max_children: int, exploration: float
    ) -> None:
        self.vocab_size = vocab_size
        self.max_depth = max_depth
        self.max_children = max_children
        self.exploration = exploration
        self._rows: RowTable[WeightedRow] = RowTable(max_bytes=max_bytes, bytes_of=_bytes_of)

    @property
    def num_bytes(self) -> int:
        return self._rows.num_bytes

    def read(self, text: Text) -> None:
        self.learn(text, 0, ())

    def learn(self, text: Text, first: int, logprobs: tuple[TokenLogprob, ...]) -> None:
        tokens = text.tokens
        for index in range(max(first, 1), len(tokens)):
            top = logprobs[index - first].top if logprobs else ()
            credits = _credits(top, tokens[index])
            for size in CONTEXT_SIZES:
                if index >= size:
                    self._add(key_of_context(tokens[index - size : index], self.vocab_size), credits)

    def tree(self, text: Text, num_nodes: int, below: tuple[int, ...]) -> list[Grown]:
        return search(
            tuple(text.tail(2, below)),
            self._expand,
            num_nodes,
            max_depth=self.max_depth,
            exploration=self.exploration,
        )

    def _expand(self, context: tuple[int, ...], depth: int) -> list[Candidate[tuple[int, ...]]]:
        levels = []
        for size in CONTEXT_SIZES:
            ending = context[-size:]
            row = self._rows.get(key_of_context(ending, self.vocab_size)) if len(ending) == size else None
            if row:
                levels.append((row, sum(weight for _, weight in row), 1.0 / size))
        return [(token, confidence, (*context[-1:], token)) for token, confidence in blend(levels, self.max_children)]

    def _add(self, key: int, credits: dict[int, float]) -> None:
        weights = {token: weight * (1.0 - FORGETTING) for token, weight in self._rows.get(key) or ()}
        for token, credit in credits.items():
            weights[token] = weights.get(token, 0.0) + credit
        self._rows.put(key, _row_of(weights))

    def to_data(self) -> dict[str, object]:
        return {
            "rows": [
                {"context": context_of_key(key, self.vocab_size), "weights": [list(pair) for pair in row]}
                for key, row in self._rows.items()
            ]
        }

    def merge(self, data: object) -> None:
        """Weights of the same row are added, and scaled to what a row may hold: the order does not matter."""
        for key, theirs in [self._read_row(row) for row in items(member(data, "rows"), "rows")]:
            weights = dict(self._rows.get(key) or ())
            for token, weight in theirs.items():
                weights[token] = weights.get(token, 0.0) + weight
            total = sum(weights.values())
            scale = min(1.0, MAX_TOTAL / total)
            self._rows.put(key, _row_of({token: weight * scale for token, weight in weights.items()}))

    def _read_row(self, row: object) -> tuple[int, dict[int, float]]:
        high = self.vocab_size - 1
        context = integers(member(row, "context"), "a context", 0, high, least=1, most=max(CONTEXT_SIZES))
        weights: dict[int, float] = {}
        for pair in items(member(row, "weights"), "weights", least=1, most=MAX_SUCCESSORS):
            token, weight = items(pair, "a weight", least=2, most=2)
            (successor,) = integers([token], "a successor", 0, high)
            if successor in weights:
                raise InvalidArgument(f"snapshot has successor {successor} of {context} twice; each may appear once")
            # Above zero: a row of weights that add up to nothing would be divided by.
            weights[successor] = number(weight, "a weight", 1e-12, MAX_TOTAL + 1e-6)
        return key_of_context(context, self.vocab_size), weights


def _credits(top: tuple[tuple[int, float], ...], chosen: int) -> dict[int, float]:
    """What a decision adds to a row: at most one in sum, and something for the token that was chosen."""
    probs = {token: math.exp(min(logprob, 0.0)) for token, logprob in top[:MAX_SUCCESSORS] if logprob > -16.0}
    if not probs:
        return {chosen: 1.0}
    total = max(sum(probs.values()), 1.0)
    credits = {token: prob / total for token, prob in probs.items()}
    credits.setdefault(chosen, max(1.0 - sum(credits.values()), 1e-6))
    return credits


def _row_of(weights: dict[int, float]) -> WeightedRow:
    best = sorted(weights.items(), key=lambda pair: (-pair[1], pair[0]))[:MAX_SUCCESSORS]
    kept = tuple(pair for pair in best if pair[1] >= 1e-12)
    return kept or tuple(best[:1])


class Trigram(MemoryDrafter[TrigramMemory]):
    """See the module; `exploration` is the weight of what was not tried yet."""

    kind: ClassVar[str] = "trigram"
    num_logprobs: ClassVar[int] = MAX_SUCCESSORS

    def __init__(
        self,
        *,
        drafter: DrafterId,
        vocab_size: int,
        max_bytes: int = MAX_BYTES,
        max_tenant_bytes: int = MAX_TENANT_BYTES,
        max_depth: int = 12,
        max_children: int = 8,
        exploration: float = 1.0,
    ) -> None:
        super().__init__(drafter=drafter, vocab_size=vocab_size, max_bytes=max_bytes, max_tenant_bytes=max_tenant_bytes)
        if max_depth < 1 or max_children < 1 or not 0.0 <= exploration < math.inf:
            raise InvalidArgument(
                f"the trigram drafter has max_depth={max_depth}, max_children={max_children}, "
                f"exploration={exploration}; right are 1 or more, 1 or more, and a number from 0"
            )
        self.max_depth = max_depth
        self.max_children = max_children
        self.exploration = exploration

    def _new_memory(self) -> TrigramMemory:
        return TrigramMemory(
            vocab_size=self.vocab_size,
            max_bytes=self.max_tenant_bytes,
            max_depth=self.max_depth,
            max_children=self.max_children,
            exploration=self.exploration,
        )
