"""In what manner a fleet drafts: not at all, in turn with the target, or running ahead of it; found by trying.

What drafting costs no table of rounds shows: drafters may share processors, memory and links with the target and slow
the very rounds they hide behind, and a round that waits for drafts is late however cheap its rows are. So the whole is
measured, as clients see it: committed tokens over the time from the end of one round to the end of the next. To make
rounds of different loads comparable, tokens count by the time in which plain decoding would have decided them when the
target was probed, with nobody else at work. A manner's *gain* is that time over the time it took.

The manner with the highest gain is used; the others are tried for a few rounds now and then, after pauses that double
while trials stay fruitless, and grow faster while they are hopeless. So the cost of knowing goes to nothing, a manner
that never pays is not used for long, and a load, a text or a machine that changes is noticed. Gains are kept by octaves
of the number of sequences, and what is known of near octaves counts for a part, so that a load that was never seen
begins with a good guess. A fleet that knows nothing begins with the most ambitious manner, and takes plain decoding for
what the probes say.

(SmartSpec, arXiv 2406.14066, and TurboSpec price speculation by a model of it; here nothing is modelled, so what no
model has heard of is priced too. The budget of a round still decides how much of what is drafted it checks.)
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from contracts.errors import InvalidArgument

__all__ = ["Manner", "MannerChoice"]

_SETTLING = 2  # rounds after a change, in which drafters read what they missed: no figures of either manner
_NEIGHBOUR = 1 / 8  # for how much the figures of the next octave count, and its square for those of the one behind
_ALMOST_NOTHING_S = 1e-6  # for which the probes count: as soon as plain decoding was seen, that counts
_AS_PROBED = 0.95  # gain of plain decoding, before it was seen: between steps something happens too
_RENEWED = 1 / 16  # for how much figures count after something changed
_HOPELESS = 0.75  # a gain of less than this part of the best one's
_MOST_KINDS = 64  # that figures are kept of


class Manner(StrEnum):
    """How sequences are drafted for at present. A mode says which of these it may use."""

    PLAIN = "plain"
    IN_TURN = "in_turn"
    AHEAD = "ahead"


@dataclass(slots=True)
class _Sums:
    """Of recent rounds, fading: their tokens, the seconds that plain decoding takes for these, and what they took."""

    tokens: float = 0.0
    plain_s: float = 0.0
    seconds: float = 0.0

    def add(self, num_tokens: float, plain_s: float, seconds: float, *, keep: float) -> None:
        self.tokens = keep * self.tokens + num_tokens
        self.plain_s = keep * self.plain_s + plain_s
        self.seconds = keep * self.seconds + seconds

    @property
    def gain(self) -> float:
        return self.plain_s / self.seconds


@dataclass(slots=True)
class _Octave:
    """One kind of sequences, so many of them. A manner is due for a trial in the round `due` says."""

    sums: dict[Manner, _Sums] = field(default_factory=dict)
    due: dict[Manner, int] = field(default_factory=dict)
    pauses: dict[Manner, int] = field(default_factory=dict)

    def fade(self, manner: Manner, part: float) -> None:
        """What is known of it counts for so much from now on."""
        if (sums := self.sums.get(manner)) is not None:
            self.sums[manner] = _Sums(
                tokens=part * sums.tokens, plain_s=part * sums.plain_s, seconds=part * sums.seconds
            )


@dataclass(slots=True)
class _Kind:
    now: Manner
    octaves: dict[int, _Octave] = field(default_factory=dict)
    num_rounds: int = 0
    trial_left: int = 0
    settling: int = 0
    changed: int = 0
    """In which round the manner changed last. Every change has a price, so it stays for as long as a trial lasts."""

    def change(self, manner: Manner) -> None:
        if manner is not self.now:
            self.now, self.settling, self.changed = manner, _SETTLING, self.num_rounds

    def sums(self, manner: Manner, at: int) -> _Sums | None:
        """All that is known of a manner, as seen from one octave."""
        plain_s, seconds = (_ALMOST_NOTHING_S * _AS_PROBED, _ALMOST_NOTHING_S) if manner is Manner.PLAIN else (0.0, 0.0)
        tokens = 0.0
        for octave, known in self.octaves.items():
            if (sums := known.sums.get(manner)) is not None:
                part = _NEIGHBOUR ** abs(octave - at)
                tokens += part * sums.tokens
                plain_s += part * sums.plain_s
                seconds += part * sums.seconds
        return _Sums(tokens=tokens, plain_s=plain_s, seconds=seconds) if seconds > 0.0 else None


class MannerChoice:
    """See the module. `manners` are those allowed, the most ambitious first; the same for all calls of one `kind`."""

    def __init__(
        self,
        *,
        trial_rounds: int = 8,
        shortest_pause: int = 64,
        longest_pause: int = 4096,
        memory: float = 128.0,
        margin: float = 0.01,
    ) -> None:
        if not (trial_rounds >= 1 and 1 <= shortest_pause <= longest_pause and memory >= 1.0 and 0.0 <= margin < 1.0):
            raise InvalidArgument(
                f"a choice of manners has trial_rounds {trial_rounds}, pauses from {shortest_pause} to "
                f"{longest_pause}, memory {memory}, margin {margin}; right: all but the margin 1 or more, the longest "
                "pause the longest, and a margin from 0 to below 1"
            )
        self.trial_rounds, self.margin = trial_rounds, margin
        self.shortest_pause, self.longest_pause = shortest_pause, longest_pause
        self._keep = 1.0 - 1.0 / memory
        self._old = 4.0 * memory
        self._kinds: dict[Hashable, _Kind] = {}

    def now(self, kind: Hashable, manners: Sequence[Manner]) -> Manner:
        """The manner to draft in."""
        return self._kind(kind, manners).now

    def observe(
        self,
        kind: Hashable,
        manners: Sequence[Manner],
        *,
        num_sequences: int,
        num_tokens: int,
        plain_s: float,
        elapsed_s: float,
    ) -> None:
        """One round of so many sequences in the manner of `now`: its tokens, how long plain decoding would take for
        as many by the probes, and the time since the round before ended."""
        if not (elapsed_s > 0.0 and plain_s >= 0.0 and num_sequences > 0):
            return
        known = self._kind(kind, manners)
        known.num_rounds += 1
        at = num_sequences.bit_length()
        octave = self._octave(known, at)
        if known.settling > 0:
            known.settling -= 1
            return
        octave.sums.setdefault(known.now, _Sums()).add(num_tokens, plain_s, elapsed_s, keep=self._keep)
        sums = {manner: found for manner in manners if (found := known.sums(manner, at)) is not None}
        best = max(sums, key=lambda manner: sums[manner].gain)
        now = sums[known.now]
        is_worse = now.gain < (1.0 - self._doubt(now, known.trial_left > 0)) * sums[best].gain
        is_hopeless = now.gain < _HOPELESS * sums[best].gain
        if known.trial_left > 0:
            known.trial_left -= 1
            if known.trial_left == 0 or is_worse:
                known.trial_left = 0
                self._judge(known, octave, best, is_hopeless=is_hopeless)
        elif is_worse and known.num_rounds >= known.changed + self.trial_rounds:
            pause = (4 if is_hopeless else 1) * self.shortest_pause
            self._pause(known, octave, known.now, min(pause, self.longest_pause))
            known.change(best)
        else:
            self._try_another(known, octave, manners)

    def renewed(self) -> None:
        """Something has changed that may make a difference at every load, such as who drafts."""
        for known in self._kinds.values():
            for octave in known.octaves.values():
                for manner in octave.pauses:
                    self._pause(known, octave, manner, self.shortest_pause)
                    octave.fade(manner, _RENEWED)

    # Inside

    def _doubt(self, sums: _Sums, is_trial: bool) -> float:
        """Part by which the manner in use may be worse by bad luck: the fewer its tokens, the more."""
        return max(self.margin, (1.0 if is_trial else 0.5) / math.sqrt(max(sums.tokens, 1.0)))

    def _judge(self, known: _Kind, octave: _Octave, best: Manner, *, is_hopeless: bool) -> None:
        """After a trial: on with the best, and a longer pause for what was tried in vain."""
        tried = known.now
        if tried is best:
            for manner in octave.pauses:
                self._pause(known, octave, manner, self.shortest_pause)
        else:
            longer = (8 if is_hopeless else 2) * octave.pauses.get(tried, self.shortest_pause // 2)
            self._pause(known, octave, tried, min(longer, self.longest_pause))
        known.change(best)

    def _try_another(self, known: _Kind, octave: _Octave, manners: Sequence[Manner]) -> None:
        for manner in reversed(manners):  # plain decoding first: what the probes say of it may be wrong
            due = octave.due.setdefault(manner, known.num_rounds + self.trial_rounds)
            if manner is not known.now and known.num_rounds >= due:
                pause = octave.pauses.get(manner, 0)
                octave.fade(manner, math.exp(-pause / self._old))
                known.change(manner)
                known.trial_left = self.trial_rounds
                return

    def _pause(self, known: _Kind, octave: _Octave, manner: Manner, num_rounds: int) -> None:
        octave.pauses[manner] = num_rounds
        octave.due[manner] = known.num_rounds + num_rounds

    def _octave(self, known: _Kind, at: int) -> _Octave:
        """Of so many sequences. A new one is in no more hurry to try things than its neighbour is."""
        octave = known.octaves.get(at)
        if octave is None:
            octave = _Octave()
            if known.octaves:
                near = known.octaves[min(known.octaves, key=lambda other: abs(other - at))]
                for manner, num_rounds in near.pauses.items():
                    self._pause(known, octave, manner, num_rounds)
            known.octaves[at] = octave
        return octave

    def _kind(self, kind: Hashable, manners: Sequence[Manner]) -> _Kind:
        known = self._kinds.get(kind)
        if known is None:
            if len(self._kinds) >= _MOST_KINDS:
                del self._kinds[next(iter(self._kinds))]
            known = self._kinds[kind] = _Kind(now=manners[0])
        return known
