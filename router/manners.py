"""In what manner the sequences that run are drafted for, and whether by one drafter or several: measured from round to
round, and said to each of them."""

from __future__ import annotations

from collections.abc import Collection

from contracts.clock import Clock
from router.modes import ModeParts
from router.rounds import PlannedRound
from router.sequence import RoutedSequence
from speculation.cost import CostTable
from speculation.load import Cooperation
from speculation.manner import DraftingWay, Manner
from speculation.ways import WayChoice

__all__ = ["Manners"]

_AS_PROBED = 0.95  # gain of plain decoding, before it was seen: between steps something happens too
_PLAIN = DraftingWay(Manner.PLAIN)


class Manners:
    """See the module. A round counts from the end of the one before. `probed`: what rounds cost where nothing else was
    at work, which live rounds must not change. `cooperation`: whether the load leaves room for a second drafter. Where
    drafting is not priced, all draft as ambitiously as they may."""

    def __init__(self, clock: Clock, probed: CostTable, cooperation: Cooperation, *, is_priced: bool = True) -> None:
        self.clock, self.cooperation, self.is_priced = clock, cooperation, is_priced
        self._choice = WayChoice[DraftingWay](plain={_PLAIN: _AS_PROBED})
        self._probed = probed
        self._since_s: float | None = None

    def round_ended(
        self,
        planned: PlannedRound,
        ran: Collection[RoutedSequence],
        running: Collection[RoutedSequence],
        *,
        num_tokens: int,
        num_rows: int,
    ) -> bool:
        """One more round, with so many tokens of so many rows. `ran`: the sequences in the fleet while it ran;
        `running`: those that go on. Whether their way is another from now on."""
        now_s, since_s = self.clock.now_s(), self._since_s
        self._since_s = now_s if running else None
        # Where all were cancelled meanwhile, the round was for nobody.
        if self.is_priced and self._probed and since_s is not None and ran:
            # By what was computed: of a prompt the verifier may have had the most in its prefix cache.
            num_prompt_rows = max(num_rows - sum(1 + len(item.nodes) for item in planned.items), 0)
            plain_s, prompt_s = self._plain_s(ran, num_tokens, num_prompt_rows)
            for parts, sequences in _by_parts(ran).items():
                # Those that were not told yet went on as before.
                if self._is_told(parts, sequences):
                    self._choice.observe(
                        parts,
                        self._ways(parts),
                        num_sequences=len(ran),
                        num_tokens=num_tokens,
                        plain_s=plain_s,
                        prompt_s=prompt_s,
                        elapsed_s=now_s - since_s,
                    )
        return any(not self._is_told(parts, sequences) for parts, sequences in _by_parts(running).items())

    def say(self, running: Collection[RoutedSequence]) -> bool:
        """Tells each sequence its way; whether a manner is news for any."""
        is_news = False
        for parts, sequences in _by_parts(running).items():
            way = self._now(parts)
            for sequence in sequences:
                is_news |= sequence.manner is not way.manner
                sequence.manner, sequence.most_drafters = way.manner, way.most_drafters
        return is_news

    def renewed(self) -> None:
        """Something has changed that may make a difference, such as who drafts."""
        self._choice.renewed()

    # Inside

    def _is_told(self, parts: ModeParts, sequences: Collection[RoutedSequence]) -> bool:
        way = self._now(parts)
        return all(DraftingWay(sequence.manner, sequence.most_drafters) == way for sequence in sequences)

    def _now(self, parts: ModeParts) -> DraftingWay:
        ways = self._ways(parts)
        return self._choice.now(parts, ways) if len(ways) > 1 else ways[0]

    def _ways(self, parts: ModeParts) -> list[DraftingWay]:
        """Those that mode and load allow. Each begins with one drafter: a second has to show what it gives."""
        if not (self.is_priced and parts.is_priced):
            return [DraftingWay(parts.manners[0], max(parts.max_drafters, 1))]
        alone = [DraftingWay(manner) for manner in parts.manners]
        together = min(self.cooperation.num_drafters, parts.max_drafters)
        several = [DraftingWay(way.manner, together) for way in alone if together > 1 and way != _PLAIN]
        return [*alone[:1], *several, *alone[1:]]

    def _plain_s(
        self, sequences: Collection[RoutedSequence], num_tokens: int, num_prompt_rows: int
    ) -> tuple[float, float]:
        """Of plain decoding: so many tokens of these sequences together, and as much of their prompts on the way."""
        num = max(sum(sequence.is_decoding for sequence in sequences), 1)
        context = num * sum(sequence.position for sequence in sequences) // len(sequences)
        step_s = self._probed.cost_s(num, context)
        with_prompts_s = self._probed.cost_s(num + num_prompt_rows, context + num_prompt_rows * context // num)
        return num_tokens * step_s / num, max(with_prompts_s - step_s, 0.0)


def _by_parts(running: Collection[RoutedSequence]) -> dict[ModeParts, list[RoutedSequence]]:
    by_parts: dict[ModeParts, list[RoutedSequence]] = {}
    for sequence in running:
        by_parts.setdefault(sequence.parts, []).append(sequence)
    return by_parts
