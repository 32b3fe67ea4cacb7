"""Trees that grow together, best first, and are told as they are found.

Each tree grows as far as it is known what comes next. Where it stops, what comes there is computed, for all asks in
one step, together with what growth would look at soon; then it goes on. So an answer does not depend on what was
computed together with what, nor on what was known before: that only decides how many steps it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from contracts.types import DrafterId, DraftNode, SequenceId
from workers.drafters.drafter import Ask
from workers.drafters.growth import Growth
from workers.drafters.model_reader import Reader
from workers.drafters.model_reading import Path, Reading

__all__ = ["Found", "Search"]

_WORTH_GUESSING = 0.5
"""A place that growth may look at soon is computed together with the next one if its value is at least this share of
that one's. One more row costs little, one more step costs much, so being needed half of the time is enough."""

_MOST_MORE = 4
"""Where a tree grows alone, a step goes on by itself along the best path at most so often: that is where growth mostly
goes, and a step that is called for costs as much as three of these."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The next nodes of an answer: their parents are indices among all nodes of that answer, told before or now."""

    ask: int
    nodes: tuple[DraftNode, ...]
    is_last: bool


@dataclass(slots=True, kw_only=True)
class _Answer:
    """One ask, and how far its answer is."""

    number: int
    ask: Ask
    reading: Reading
    num_moves: int
    growth: Growth[Path]
    num_told: int = 0
    is_dropped: bool = False

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for the rest: the ask was dropped, or the sequence moved on from where it was asked."""
        return self.is_dropped or self.num_moves != self.reading.num_moves

    def wanted(self, max_expand: int) -> list[Path]:
        """Paths of which it should be known what comes next, `growth.next` first."""
        soon = self.growth.soon()
        paths = [path for value, path in soon if value >= _WORTH_GUESSING * soon[0][0]]
        return [path for path in paths if path not in self.reading.known][:max_expand]

    def tell(self, drafter: DrafterId) -> Found | None:
        """Grows as far as it is known what comes next; what is new, if anything is."""
        if not self.is_over:
            self.reading.grow(self.growth, self.ask.max_children)
        new = () if self.is_over else self.growth.tree[self.num_told :]
        self.num_told += len(new)
        is_last = self.is_over or self.growth.next is None
        nodes = tuple(DraftNode(token=n.token, parent=n.parent, confidence=n.confidence, drafter=drafter) for n in new)
        return Found(ask=self.number, nodes=nodes, is_last=is_last) if nodes or is_last else None


class Search:
    """Asks that are answered together, in steps. Asks may join at any time.

    An ask ends by itself, with what was told so far, when tokens are committed to its sequence or the sequence is
    closed: it was about a place that is no longer there.
    """

    def __init__(
        self, reader: Reader, *, drafter: DrafterId, check: Callable[[Sequence[Ask]], object], max_expand: int
    ) -> None:
        self._reader, self._drafter, self._check, self._max_expand = reader, drafter, check, max_expand
        self._answers: list[_Answer] = []
        self._num_asks = 0

    @property
    def is_done(self) -> bool:
        """Whether all asks are answered."""
        return not self._answers

    def add(self, asks: Sequence[Ask]) -> range:
        """Starts answering; the numbers under which the answers come."""
        self._check(asks)
        numbers = range(self._num_asks, self._num_asks + len(asks))
        self._num_asks = numbers.stop
        for number, ask in zip(numbers, asks, strict=True):
            reading = self._reader.asked(ask.sequence)
            growth = reading.growth(ask)
            self._answers.append(
                _Answer(number=number, ask=ask, reading=reading, num_moves=reading.num_moves, growth=growth)
            )
        return numbers

    def drop(self, sequence: SequenceId) -> None:
        """Nobody waits for the answers about a sequence any more."""
        for answer in self._answers:
            answer.is_dropped |= answer.ask.sequence == sequence

    def step(self) -> list[Found]:
        """What is known and was not told; where that is nothing, one step of the engine goes before.

        Nodes come parents first. While prompts are read there may be nothing to tell.
        """
        found = self._tell()
        if not found and self._answers:
            self._compute()
            found = self._tell()
        return found

    def _compute(self) -> None:
        wants: dict[Reading, list[Path]] = {}
        for answer in self._answers:
            wants.setdefault(answer.reading, []).extend(answer.wanted(self._max_expand))
        num_more = min(self._answers[0].growth.num_behind, _MOST_MORE) if len(self._answers) == 1 else 0
        stuck = self._reader.compute(wants, num_more=num_more)
        for answer in self._answers:
            if answer.reading in stuck:
                answer.reading.finish(answer.growth, answer.ask.max_children)

    def _tell(self) -> list[Found]:
        found = [told for answer in self._answers if (told := answer.tell(self._drafter)) is not None]
        ended = {told.ask for told in found if told.is_last}
        self._answers = [answer for answer in self._answers if answer.number not in ended]
        return found
