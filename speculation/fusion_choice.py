"""Which kind of fusion a fleet's sequences use: measured on its own traffic, or set by its operator.

`fusion.choose_kind` weighs the two by times and acceptances. Times are known; what each kind holds of the target's
choices is counted here, from verdicts. A kind that was never tried cannot be judged, so now and then a sequence uses
the one that is less known, until that is known well enough, and seldom afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

from contracts.errors import InvalidArgument
from speculation.fusion import FusionKind, FusionMeasures, choose_kind

__all__ = ["FusionChoice"]

_START, _START_WEIGHT = 0.6, 20.0  # acceptance of a kind that was never tried, and how many places that counts for


@dataclass(slots=True)
class _Counted:
    held: float = 0.0
    tried: float = 0.0

    @property
    def acceptance(self) -> float:
        return (self.held + _START * _START_WEIGHT) / (self.tried + _START_WEIGHT)


class FusionChoice:
    """See the module. `fixed` is an operator's own choice; one sequence in `explore_every` may try the other kind."""

    def __init__(
        self,
        fixed: FusionKind | None = None,
        *,
        explore_every: int = 8,
        enough: float = 300.0,
        memory: float = 4000.0,
    ) -> None:
        if explore_every < 2 or not (0.0 < enough <= memory):
            raise InvalidArgument(
                f"a choice of fusion has explore_every {explore_every}, enough {enough}, memory {memory}; right are 2 "
                "or more, and places above 0 of which no more are enough than are remembered"
            )
        self.fixed, self.current = fixed, fixed or FusionKind.MERGED
        self._explore_every, self._enough, self._memory = explore_every, enough, memory
        self._counted = {kind: _Counted() for kind in FusionKind}
        self._num_asked = 0

    def acceptance(self, kind: FusionKind) -> float:
        """The chance that trees made this way hold the target's next token, given that they held the one before."""
        return self._counted[kind].acceptance

    def kind(self, *, step_s: float, link_s: float, round_s: float, max_depth: int) -> FusionKind:
        """For a sequence that begins to have several drafters."""
        self._num_asked += 1
        measures = FusionMeasures(
            step_s=step_s,
            link_s=link_s,
            round_s=round_s,
            every_step_acceptance=self.acceptance(FusionKind.EVERY_STEP),
            merged_acceptance=self.acceptance(FusionKind.MERGED),
            max_depth=max_depth,
        )
        self.current = choose_kind(measures, self.current, fixed=self.fixed)
        other = FusionKind.MERGED if self.current is FusionKind.EVERY_STEP else FusionKind.EVERY_STEP
        is_known = self._counted[other].tried >= self._enough
        turn = self._explore_every * (8 if is_known else 1)
        return other if self.fixed is None and self._num_asked % turn == 0 else self.current

    def observe(self, kind: FusionKind, *, num_held: int, num_tried: int) -> None:
        """A verdict on a tree made this way: at so many places it offered something, at so many the right token."""
        if not 0 <= num_held <= num_tried:
            raise InvalidArgument(f"a tree held {num_held} of {num_tried} tokens; right is no more than all")
        counted = self._counted[kind]
        keep = max(1.0 - num_tried / self._memory, 0.0)
        counted.held, counted.tried = keep * counted.held + num_held, keep * counted.tried + num_tried
