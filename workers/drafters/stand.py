"""Stochastic n-gram drafting: stored distributions, drawn without replacement (arXiv 2506.04708).

The rule of STAND: for each context of a few tokens the memory keeps a distribution, the target's own most likely
tokens with their probabilities, averaged over the times that the context was met. A draft looks up the longest known
context and takes its children by Gumbel top-k: the k largest of log-probability plus Gumbel noise are a sample of k
tokens without replacement. At temperature 0 there is no noise, and they are the k most likely ones.

Ours: the noise is the shared noise of (seed, position, token), the very one that the target adds to its own logits
(promise 2). Where the paper's draft is an independent draw that agrees with the target's by luck, this one is the
target's own draw as far as the stored distribution is the target's: both take the argmax over the same sum. And tokens
come back as proposals, so no probability has to travel and none can bias the output.

Stored are probabilities of the unprocessed distribution, as a verdict reports them; the sequence's temperature is
applied here. Where a verdict brought no candidates, the token chosen counts as all of the distribution, and the average
becomes the share of choices. An average moves by at least one in `HORIZON`, so that it follows a target that changes.

The confidence of a child is its share of the softmax over the noisy values: it grows with the margin to the next, which
above temperature 0 says more about agreement than the probability does. What the memory cannot know, mass of tokens
that are not stored and contexts met seldom, is taken off first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from contracts.errors import InvalidArgument
from contracts.types import DrafterId, SamplingParams, TokenLogprob
from workers.drafters.drafter import Noise
from workers.drafters.growth import Candidate, Grown, grow
from workers.drafters.memory import MAX_BYTES, MAX_TENANT_BYTES, Memory, MemoryDrafter
from workers.drafters.ngrams import context_of_key, key_of_context
from workers.drafters.plain_data import integer, integers, items, member, number
from workers.drafters.row_table import RowTable
from workers.drafters.text import Text

__all__ = ["Stand", "StandMemory"]

MAX_CANDIDATES = 10
HORIZON = 64
MIN_PROB = 1e-6
CONTEXT_SIZES = (3, 2, 1)

ProbRow = tuple[int, tuple[tuple[int, float], ...]]
"""How often a context was met (at most `HORIZON`), and its likeliest tokens with their probabilities, best first."""


def _bytes_of(row: ProbRow) -> int:
    return 320 + 136 * len(row[1])  # a key, a place in the dict, two tuples; a pair, its integer and number each


class StandMemory(Memory):
    """The distributions of one tenant."""

    def __init__(
        self, *, vocab_size: int, max_bytes: int, max_depth: int, max_children: int, noise: Noise | None
    ) -> None:
        self.vocab_size = vocab_size
        self.max_depth = max_depth
        self.max_children = max_children
        self.noise = noise
        self._rows: RowTable[ProbRow] = RowTable(max_bytes=max_bytes, bytes_of=_bytes_of)

    @property
    def num_bytes(self) -> int:
        return self._rows.num_bytes

    def read(self, text: Text) -> None:
        self.learn(text, 0, ())

    def learn(self, text: Text, first: int, logprobs: tuple[TokenLogprob, ...]) -> None:
        tokens = text.tokens
        for index in range(max(first, 1), len(tokens)):
            top = logprobs[index - first].top if logprobs else ()
            met = _distribution(top, tokens[index])
            for size in CONTEXT_SIZES:
                if index >= size:
                    key = key_of_context(tokens[index - size : index], self.vocab_size)
                    self._rows.put(key, _average(self._rows.get(key), (1, met)))

    def tree(self, text: Text, num_nodes: int, below: tuple[int, ...]) -> list[Grown]:
        position = len(text.tokens) + len(below)

        def expand(context: tuple[int, ...], depth: int) -> list[Candidate[tuple[int, ...]]]:
            return [
                (token, confidence, (*context, token)[-CONTEXT_SIZES[0] :])
                for token, confidence in self._children(context, position + depth, text.sampling)
            ]

        return grow(tuple(text.tail(CONTEXT_SIZES[0], below)), expand, num_nodes, max_depth=self.max_depth)

    def _children(self, context: tuple[int, ...], position: int, sampling: SamplingParams) -> list[tuple[int, float]]:
        """The first by noisy value of the longest known context, as (token, confidence)."""
        for size in range(len(context), 0, -1):
            row = self._rows.get(key_of_context(context[-size:], self.vocab_size))
            if row is not None:
                break
        else:
            return []
        num_met, probs = row
        known = min(sum(prob for _, prob in probs), 1.0) * num_met / (num_met + 1.0 / size)
        if sampling.is_greedy or self.noise is None:
            total = sum(prob for _, prob in probs)
            return [(token, known * prob / total) for token, prob in probs[: self.max_children]]
        noises = self.noise(sampling.seed, position, [token for token, _ in probs])
        values = [
            math.log(prob) / sampling.temperature + float(noise) for (_, prob), noise in zip(probs, noises, strict=True)
        ]
        best = max(values)
        weights = [math.exp(value - best) for value in values]
        total = sum(weights)
        drawn = [(token, known * weight / total) for (token, _), weight in zip(probs, weights, strict=True)]
        return sorted(drawn, key=lambda pair: (-pair[1], pair[0]))[: self.max_children]

    def to_data(self) -> dict[str, object]:
        return {
            "rows": [
                {
                    "context": context_of_key(key, self.vocab_size),
                    "num_met": num_met,
                    "probs": [list(pair) for pair in probs],
                }
                for key, (num_met, probs) in self._rows.items()
            ]
        }

    def merge(self, data: object) -> None:
        """Distributions of the same context are averaged by how often each was met: the order does not matter."""
        for key, row in [self._read_row(row) for row in items(member(data, "rows"), "rows")]:
            self._rows.put(key, _average(self._rows.get(key), row))

    def _read_row(self, row: object) -> tuple[int, ProbRow]:
        high = self.vocab_size - 1
        context = integers(member(row, "context"), "a context", 0, high, least=1, most=CONTEXT_SIZES[0])
        num_met = integer(member(row, "num_met"), "num_met", 1, HORIZON)
        probs: list[tuple[int, float]] = []
        for pair in items(member(row, "probs"), "probs", least=1, most=MAX_CANDIDATES):
            token, prob = items(pair, "a probability", least=2, most=2)
            (found,) = integers([token], "a token", 0, high)
            probs.append((found, number(prob, "a probability", MIN_PROB, 1.0)))
        if len(dict(probs)) != len(probs) or sum(prob for _, prob in probs) > 1.0 + 1e-6:
            raise InvalidArgument(
                f"snapshot has probabilities after {context} that name a token twice or add up to more than one"
            )
        return key_of_context(context, self.vocab_size), (num_met, _best(dict(probs)))


def _distribution(top: Sequence[tuple[int, float]], chosen: int) -> tuple[tuple[int, float], ...]:
    """What the target thought, as far as it is known."""
    probs = {token: math.exp(min(logprob, 0.0)) for token, logprob in top if logprob > -14.0}
    if not probs:
        return ((chosen, 1.0),)
    total = max(sum(probs.values()), 1.0)  # rounding may put it a little above one
    return _best({token: prob / total for token, prob in probs.items()})


def _average(mine: ProbRow | None, theirs: ProbRow) -> ProbRow:
    if mine is None:
        return theirs
    total = mine[0] + theirs[0]
    probs: dict[int, float] = {}
    for num_met, pairs in sorted((mine, theirs)):
        for token, prob in pairs:
            probs[token] = probs.get(token, 0.0) + prob * num_met / total
    return min(total, HORIZON), _best(probs)


def _best(probs: dict[int, float]) -> tuple[tuple[int, float], ...]:
    order = sorted(probs.items(), key=lambda pair: (-pair[1], pair[0]))
    return tuple(pair for pair in order[:MAX_CANDIDATES] if pair[1] >= MIN_PROB) or (order[0],)


class Stand(MemoryDrafter[StandMemory]):
    """See the module. Without `noise` it drafts the likeliest tokens at every temperature."""

    kind: ClassVar[str] = "stand"
    num_logprobs: ClassVar[int] = MAX_CANDIDATES

    def __init__(
        self,
        *,
        drafter: DrafterId,
        vocab_size: int,
        noise: Noise | None = None,
        max_bytes: int = MAX_BYTES,
        max_tenant_bytes: int = MAX_TENANT_BYTES,
        max_depth: int = 12,
        max_children: int = MAX_CANDIDATES,
    ) -> None:
        super().__init__(drafter=drafter, vocab_size=vocab_size, max_bytes=max_bytes, max_tenant_bytes=max_tenant_bytes)
        if max_depth < 1 or max_children < 1:
            raise InvalidArgument(
                f"the stand drafter has max_depth={max_depth} and max_children={max_children}; each is 1 or more"
            )
        self.max_depth = max_depth
        self.max_children = max_children
        self.noise = noise

    def _new_memory(self) -> StandMemory:
        return StandMemory(
            vocab_size=self.vocab_size,
            max_bytes=self.max_tenant_bytes,
            max_depth=self.max_depth,
            max_children=self.max_children,
            noise=self.noise,
        )
