"""The drafter that is a model: a small language model that reads along, and chooses with the request's own noise.

Draft and target add the same noise to their logits and take the best (speculation/scores.py says what follows from
that), so what to propose at a place are the best few by noisy value, each with the score of its margin. From these a
tree grows best first, by value. What the model read stays in its engine's cache: a path that was drafted and then
committed, or asked about again, costs nothing a second time.

Sequences come into the engine when they are first asked about, and go on as before when the cache has no room for them
all: a drafter may follow many more than it drafts for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from contracts.errors import InvalidArgument
from contracts.types import DrafterId, DraftNode, SequenceId, StepReport, TokenLogprob
from engine.engine import Engine
from workers.drafters.drafter import Ask, Opening
from workers.drafters.growth import Grown
from workers.drafters.model_reader import Reader
from workers.drafters.model_reading import Reading
from workers.drafters.model_search import Search
from workers.drafters.text import Text
from workers.drafters.text_drafter import TextDrafter

__all__ = ["ModelDrafter"]


class ModelDrafter(TextDrafter):
    """Proposes what its engine's model would say; nobody else uses the engine.

    `width` is how many children a node may have, `max_depth` how deep a tree may grow where an ask does not say it,
    `max_expand` how many places of one tree a step computes, `max_known` at how many places a sequence begins to
    forget; `on_step` hears of each engine step.
    """

    kind: ClassVar[str] = "model"

    def __init__(
        self,
        *,
        drafter: DrafterId,
        engine: Engine,
        width: int = 4,
        max_depth: int = 16,
        max_expand: int = 4,
        max_known: int = 256,
        on_step: Callable[[StepReport], None] | None = None,
    ) -> None:
        super().__init__(drafter=drafter, vocab_size=engine.limits.num_real_tokens)
        sizes = {"width": width, "max_depth": max_depth, "max_expand": max_expand, "max_known": max_known}
        for name, size in sizes.items():
            if size < 1:
                raise InvalidArgument(f"{name} of a model drafter is {size}; it is 1 or more")
        self._engine, self._max_depth, self._max_expand = engine, max_depth, max_expand
        self._reader = Reader(engine, width=width, max_known=max_known, on_step=on_step)

    def open(self, openings: Sequence[Opening]) -> None:
        for opening in openings:
            self._engine.limits.check_sampling(opening.sampling)
        super().open(openings)

    def propose(self, asks: Sequence[Ask]) -> list[tuple[DraftNode, ...]]:
        search = self.begin(asks)
        trees: list[list[DraftNode]] = [[] for _ in asks]
        while not search.is_done:
            for found in search.step():
                trees[found.ask].extend(found.nodes)
        return [tuple(tree) for tree in trees]

    def begin(self, asks: Sequence[Ask] = ()) -> Search:
        """Answers to these asks in steps, for those who want nodes as they are found; they are numbered from 0."""
        search = Search(self._reader, drafter=self.drafter, check=self._asked, max_expand=self._max_expand)
        search.add(asks)
        return search

    def agreement(self, sequence: SequenceId) -> tuple[bool, ...]:
        """For each token committed since this was last asked, where the model had chosen one in that place itself:
        whether it had chosen this one. What it drafted for others to see has no part in it."""
        return self._reader.readings[self._text(sequence).sequence].take_agreed()

    def _opened(self, text: Text) -> None:
        self._reader.readings[text.sequence] = Reading(text, self._engine, max_depth=self._max_depth)

    def _grew(self, text: Text, first: int, logprobs: tuple[TokenLogprob, ...]) -> None:
        self._reader.readings[text.sequence].grew(tuple(text.tokens[first:]))

    def _tree(self, text: Text, num_nodes: int, below: tuple[int, ...]) -> Sequence[Grown]:
        """What is known of it now."""
        reading = self._reader.readings[text.sequence]
        growth = reading.growth(Ask(sequence=text.sequence, num_nodes=num_nodes, below=below))
        reading.finish(growth)
        return growth.tree

    def _closed(self, text: Text) -> None:
        self._reader.readings.pop(text.sequence).close()
