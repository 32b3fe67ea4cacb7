"""Many readings in one engine: shared steps, and who makes room when the cache is full."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from contracts.errors import OutOfBlocks
from contracts.types import SequenceId, StepReport
from engine.engine import Engine
from engine.work import Drafted, StepResult
from workers.drafters.model_reading import Path, Piece, Reading

__all__ = ["Reader"]


class Reader:
    """The readings of one engine, which nobody else uses."""

    def __init__(
        self, engine: Engine, *, width: int, max_known: int, on_step: Callable[[StepReport], None] | None
    ) -> None:
        self.readings: dict[SequenceId, Reading] = {}
        self._engine, self._width, self._max_known, self._on_step = engine, width, max_known, on_step
        self._num_asks = 0

    def asked(self, sequence: SequenceId) -> Reading:
        """The reading of a sequence that is asked now. What it knows is bounded here, between asks: a tree in growth
        would have to compute again what it is made of."""
        reading = self.readings[sequence]
        self._num_asks += 1
        reading.last_ask = self._num_asks
        if len(reading.known) > self._max_known:
            reading.forget()
        return reading

    def compute(self, wants: Mapping[Reading, Sequence[Path]], *, num_more: int = 0) -> list[Reading]:
        """One step towards knowing what comes after these paths; the readings that cannot go on, for lack of room.
        Where there is one reading only, the step may go on below the first path by itself, so often at most.

        Those with the fewest tokens to catch up on go first, so that a long prompt gets the rows that are left and
        delays nobody by more than a step.
        """
        stuck = [reading for reading in wants if not reading.is_readable]
        pieces = self._plan({reading: paths for reading, paths in wants.items() if reading.is_readable}, num_more)
        while pieces:
            try:
                return stuck + self._run(pieces)
            except OutOfBlocks:
                if self._make_room(pieces):
                    continue
                # Nobody else has anything to give. The first piece stays as long as it can: it will be done one day,
                # and then the others find room.
                last = pieces.pop()
                if pieces:
                    continue
                if last.reading.num_nodes:
                    last.reading.drop_nodes()  # of older trees too; the next step computes again what it needs
                    continue
                stuck.append(last.reading)
                if not last.paths:
                    last.reading.leave_for_good()
        return stuck

    def _plan(self, wants: Mapping[Reading, Sequence[Path]], num_more: int) -> list[Piece]:
        for reading in wants:
            reading.enter()
        pieces: list[Piece] = []
        num_left = self._engine.limits.max_batch_rows
        for reading in sorted(wants, key=lambda reading: reading.num_pending):
            if num_left == 0:
                break
            pieces.append(reading.plan(wants[reading], num_left, num_more if len(wants) == 1 else 0))
            num_left -= pieces[-1].num_rows
        return pieces

    def _run(self, pieces: Sequence[Piece]) -> list[Reading]:
        """The step itself; the readings that it brought nothing but an error of their own."""
        result = self._engine.step([piece.work for piece in pieces], num_top=self._width)
        if self._on_step is not None:
            for report in _by_step(result):
                self._on_step(report)
        failed: list[Reading] = []
        for piece, outcome in zip(pieces, result.outcomes, strict=True):
            if isinstance(outcome, Drafted):
                piece.reading.record(piece, outcome, width=self._width)
            else:
                failed.append(piece.reading)
        return failed

    def _make_room(self, pieces: Sequence[Piece]) -> bool:
        """Takes something from a reading that has no part in the step, the one that was asked longest ago: first
        trees, which are guesses, then a whole sequence. False where nobody has anything."""
        busy = {piece.reading for piece in pieces}
        idle = [reading for reading in self.readings.values() if reading.is_resident and reading not in busy]
        idle.sort(key=lambda reading: reading.last_ask)
        if growing := next((reading for reading in idle if reading.num_nodes), None):
            growing.drop_nodes()
        elif idle:
            idle[0].leave()
        return bool(idle)


def _by_step(result: StepResult) -> list[StepReport]:
    """What each of its steps cost, those that it took by itself included."""
    num_more = sum(len(outcome.more) for outcome in result.outcomes if isinstance(outcome, Drafted))
    report, num_steps = result.report, 1 + num_more
    if not num_more:
        return [report]
    first = replace(report, num_rows=report.num_rows - num_more, elapsed_s=report.elapsed_s / num_steps)
    return [first, *(replace(first, num_rows=1) for _ in range(num_more))]
