"""Which of several ways of drafting pays most; found by trying.

What drafting costs no table of rounds shows: drafters may share processors, memory and links with the target and slow
the very rounds they hide behind, a round that waits for drafts is late however cheap its rows are, and a second drafter
makes it wait for two. So the whole is measured, as clients see it: committed tokens over the time from the end of one
round to the end of the next. To make rounds of different loads comparable, tokens count by the time in which plain
decoding would have decided them when the target was probed, with nobody else at work. A way's *gain* is that time over
the time it took.

How long a round takes shows after a few of them. How many tokens it brings does not: texts differ by far more than ways
do, and a trial sees hardly more than one text. So a way that drafts has a number of rounds' worth of what all such ways
bring added to what it brought itself: a short trial is judged by its time, a long one by its tokens too.

The way with the highest gain is used; the others are tried for a few rounds now and then, after pauses that double
while trials stay fruitless, up to a longest one, and grow faster and longer while they are hopeless. So the cost of
knowing becomes small, a way that never pays is not used for long, and a load, a text or a machine that changes is
noticed. Gains are kept by octaves of the number of sequences, and what is known of near octaves counts for a part, so
that a load that was never seen begins with a good guess. Where nothing is known the first way is used, and a way that
does not draft is taken for its prior.

(SmartSpec, arXiv 2406.14066, and TurboSpec price speculation by a model of it; here nothing is modelled, so what no
model has heard of is priced too. The budget of a round still decides how much of what is drafted it checks.)
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from contracts.errors import InvalidArgument

__all__ = ["WayChoice"]

Way = TypeVar("Way", bound=Hashable)

_SETTLING = 2  # rounds after a change, in which drafters read what they missed: no figures of either way
_NEIGHBOUR = 1 / 8  # for how much the figures of the next octave count, and its square for those of the one behind
_ALMOST_NOTHING_S = 1e-6  # for which a prior counts: as soon as a way was seen, that counts
_RENEWED = 1 / 16  # for how much figures count after something changed
_BORROWED = 24.0  # rounds of what all ways bring, see the module
_HOPELESS = 0.75  # a gain of less than this part of the best one's
_MOST_KINDS = 64  # that figures are kept of


@dataclass(slots=True)
class _Sums:
    """Of recent rounds, fading: how many, their tokens, the seconds that plain decoding takes for these and for the
    prompts beside them, and what they took."""

    rounds: float = 0.0
    tokens: float = 0.0
    plain_s: float = 0.0
    prompt_s: float = 0.0
    seconds: float = 0.0

    def add(self, other: _Sums, part: float = 1.0) -> None:
        """So much of the other too."""
        self.rounds += part * other.rounds
        self.tokens += part * other.tokens
        self.plain_s += part * other.plain_s
        self.prompt_s += part * other.prompt_s
        self.seconds += part * other.seconds

    def times(self, part: float) -> _Sums:
        scaled = _Sums()
        scaled.add(self, part)
        return scaled

    @property
    def gain(self) -> float:
        return (self.plain_s + self.prompt_s) / self.seconds


@dataclass(slots=True)
class _Octave(Generic[Way]):
    """One kind of sequences, so many of them. A way is due for a trial in the round `due` says."""

    sums: dict[Way, _Sums] = field(default_factory=dict)
    due: dict[Way, int] = field(default_factory=dict)
    pauses: dict[Way, int] = field(default_factory=dict)

    def fade(self, way: Way, part: float) -> None:
        """What is known of it counts for so much from now on."""
        if (sums := self.sums.get(way)) is not None:
            self.sums[way] = sums.times(part)


@dataclass(slots=True)
class _Kind(Generic[Way]):
    now: Way
    octaves: dict[int, _Octave[Way]] = field(default_factory=dict)
    at: int = 0
    """The octave of the last round."""
    num_rounds: int = 0
    trial_left: int = 0
    settling: int = 0
    changed: int = 0
    """In which round the way changed last. Every change has a price, so it stays for as long as a trial lasts."""

    def change(self, way: Way) -> None:
        if way != self.now:
            self.now, self.settling, self.changed = way, _SETTLING, self.num_rounds

    def sums(self, way: Way, prior: float | None) -> _Sums | None:
        """All that is known of a way, as seen from the octave of now."""
        found = _Sums()
        if prior is not None:
            found.plain_s, found.seconds = prior * _ALMOST_NOTHING_S, _ALMOST_NOTHING_S
        for octave, known in self.octaves.items():
            if (sums := known.sums.get(way)) is not None:
                found.add(sums, _NEIGHBOUR ** abs(octave - self.at))
        return found if found.seconds > 0.0 else None


class WayChoice(Generic[Way]):
    """See the module. `ways` are those that a kind of sequences may use now: the first is begun with, the last tried
    first. `plain`: those that do not draft, with their gain before they were seen. `longest_pause`: between trials of a
    way that is not hopeless, an eighth of that of one that is."""

    def __init__(
        self,
        *,
        plain: Mapping[Way, float] | None = None,
        trial_rounds: int = 8,
        shortest_pause: int = 64,
        longest_pause: int = 640,
        memory: float = 256.0,
        margin: float = 0.01,
    ) -> None:
        if not (trial_rounds >= 1 and 1 <= shortest_pause <= longest_pause and memory >= 1.0 and 0.0 <= margin < 1.0):
            raise InvalidArgument(
                f"a choice of ways has trial_rounds {trial_rounds}, pauses from {shortest_pause} to "
                f"{longest_pause}, memory {memory}, margin {margin}; right: all but the margin 1 or more, the longest "
                "pause the longest, and a margin from 0 to below 1"
            )
        self.trial_rounds, self.margin = trial_rounds, margin
        self.shortest_pause, self.longest_pause = shortest_pause, longest_pause
        self._keep = 1.0 - 1.0 / memory
        self._old = 4.0 * memory
        self._plain = dict(plain or {})
        self._kinds: dict[Hashable, _Kind[Way]] = {}

    def now(self, kind: Hashable, ways: Sequence[Way]) -> Way:
        """The way to draft now."""
        return self._kind(kind, ways).now

    def observe(
        self,
        kind: Hashable,
        ways: Sequence[Way],
        *,
        num_sequences: int,
        num_tokens: int,
        plain_s: float,
        elapsed_s: float,
        prompt_s: float = 0.0,
    ) -> None:
        """One round of so many sequences in the way of `now`: its tokens, how long plain decoding would take for
        as many by the probes, and for the prompts beside them, and the time since the round before ended."""
        if not (elapsed_s > 0.0 and plain_s >= 0.0 and prompt_s >= 0.0 and num_sequences > 0):
            return
        known = self._kind(kind, ways)
        known.num_rounds += 1
        known.at = num_sequences.bit_length()
        octave = self._octave(known, known.at)
        if known.settling > 0:
            known.settling -= 1
            return
        octave.fade(known.now, self._keep)
        this = _Sums(rounds=1.0, tokens=num_tokens, plain_s=plain_s, prompt_s=prompt_s, seconds=elapsed_s)
        octave.sums.setdefault(known.now, _Sums()).add(this)
        sums = self._sums(known, ways)
        best = self._best(sums)
        now = sums[known.now]
        sure = 1.0 - self._doubt(now, known.trial_left > 0)
        is_worse = now.gain < sure * sums[best].gain
        is_hopeless = now.gain < sure * _HOPELESS * sums[best].gain
        if known.trial_left > 0:
            known.trial_left -= 1
            if known.trial_left == 0 or is_worse:
                known.trial_left = 0
                self._judge(known, octave, best, is_hopeless=is_hopeless)
        elif is_worse and known.num_rounds >= known.changed + self.trial_rounds:
            pause = min((4 if is_hopeless else 1) * self.shortest_pause, self._longest_pause(is_hopeless))
            self._pause(known, octave, known.now, pause)
            known.change(best)
        else:
            self._try_another(known, octave, ways)

    def renewed(self) -> None:
        """Something has changed that may make a difference at every load, such as who drafts."""
        for known in self._kinds.values():
            for octave in known.octaves.values():
                for way in octave.pauses:
                    self._pause(known, octave, way, self.shortest_pause)
                    octave.fade(way, _RENEWED)

    # Inside

    def _doubt(self, sums: _Sums, is_trial: bool) -> float:
        """Part by which the way in use may be worse by bad luck: the fewer its tokens, the more."""
        return max(self.margin, (1.0 if is_trial else 0.5) / math.sqrt(max(sums.tokens, 1.0)))

    def _longest_pause(self, is_hopeless: bool) -> int:
        return (8 if is_hopeless else 1) * self.longest_pause

    def _judge(self, known: _Kind[Way], octave: _Octave[Way], best: Way, *, is_hopeless: bool) -> None:
        """After a trial: on with the best, and a longer pause for what was tried in vain."""
        tried = known.now
        if tried == best:
            for way in octave.pauses:
                self._pause(known, octave, way, self.shortest_pause)
        else:
            longer = (8 if is_hopeless else 2) * octave.pauses.get(tried, self.shortest_pause // 2)
            self._pause(known, octave, tried, min(longer, self._longest_pause(is_hopeless)))
        known.change(best)

    def _try_another(self, known: _Kind[Way], octave: _Octave[Way], ways: Sequence[Way]) -> None:
        for way in reversed(ways):
            due = octave.due.setdefault(way, known.num_rounds + self.trial_rounds)
            if way != known.now and known.num_rounds >= due:
                pause = octave.pauses.get(way, 0)
                octave.fade(way, math.exp(-pause / self._old))
                known.change(way)
                known.trial_left = self.trial_rounds
                return

    def _pause(self, known: _Kind[Way], octave: _Octave[Way], way: Way, num_rounds: int) -> None:
        octave.pauses[way] = num_rounds
        octave.due[way] = known.num_rounds + num_rounds

    def _octave(self, known: _Kind[Way], at: int) -> _Octave[Way]:
        """Of so many sequences. A new one is in no more hurry to try things than its neighbour is."""
        octave = known.octaves.get(at)
        if octave is None:
            octave = _Octave[Way]()
            if known.octaves:
                near = known.octaves[min(known.octaves, key=lambda other: abs(other - at))]
                for way, num_rounds in near.pauses.items():
                    self._pause(known, octave, way, num_rounds)
            known.octaves[at] = octave
        return octave

    def _kind(self, kind: Hashable, ways: Sequence[Way]) -> _Kind[Way]:
        known = self._kinds.get(kind)
        if known is None:
            if len(self._kinds) >= _MOST_KINDS:
                del self._kinds[next(iter(self._kinds))]
            known = self._kinds[kind] = _Kind[Way](now=ways[0])
        if known.now not in ways:
            known.trial_left = 0
            known.change(self._best(self._sums(known, ways)) if known.octaves else ways[0])
        return known

    def _sums(self, known: _Kind[Way], ways: Sequence[Way]) -> dict[Way, _Sums]:
        """Of those of these ways of which something is known, as seen from the load of now."""
        found = {way: sums for way in ways if (sums := known.sums(way, self._plain.get(way))) is not None}
        drafting, together = [sums for way, sums in found.items() if way not in self._plain], _Sums()
        for sums in drafting:
            together.add(sums)
        for sums in drafting:
            borrowed_s = _BORROWED * together.plain_s / together.rounds
            sums.plain_s = sums.rounds * (sums.plain_s + borrowed_s) / (sums.rounds + _BORROWED)
        return found

    @staticmethod
    def _best(sums: Mapping[Way, _Sums]) -> Way:
        return max(sums, key=lambda way: sums[way].gain)
