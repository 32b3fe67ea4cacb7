"""Drafters that break the protocol are kept out for a while, and for longer each time.

An offence is something that no honest drafter does, however slow, late or bad at guessing: a message that makes no
sense, more nodes than anyone wished, joining again and again. What an honest one may do is none: to be late or stale,
to guess wrong, to say little; that is counted as stale, or priced by calibration and routing, and never leads here.

Each offence has a weight, weights fade, and whoever is above the limit is out for a pause that doubles from one time to
the next. Who it is says its name, and with certificates the names in its certificate too: then an impostor's offences
are not counted against whom it pretends to be, and one that tries name after name is known by its certificate.
"""

from __future__ import annotations

from dataclasses import dataclass

from contracts.clock import Clock
from contracts.errors import QuotaExceeded

__all__ = ["BROKEN", "JOINED", "UNASKED", "Offence", "Quarantine", "QuarantineRules", "Stranger"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Offence:
    """A kind of offence, and how much each one weighs."""

    kind: str
    weight: float


BROKEN = Offence(kind="broken", weight=2.8)
"""A message that makes no sense, after which the stream ends: the fourth within a short time is too many."""
UNASKED = Offence(kind="unasked", weight=0.5)
"""A message that says more than was asked for; it is dropped."""
JOINED = Offence(kind="joined", weight=0.4)
"""Joining: a drafter whose link comes and goes may do so every five seconds and never be above the limit."""
_ANOTHER_NAME = Offence(kind="name", weight=3.4)
"""Counted for a whole certificate when one of its names is put out."""
_MAX_RECORDS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineRules:
    """A weight is half as much after `half_life_s`. A pause is twice the last one, until `forget_s` have passed since
    its end. `max_strangers` names that were never seen before may join at once, and one more each second."""

    limit: float = 10.0
    half_life_s: float = 60.0
    first_pause_s: float = 30.0
    longest_pause_s: float = 3600.0
    forget_s: float = 3600.0
    max_strangers: int = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Stranger:
    """Who joins, as far as can be known: `certificate` is the names in it, empty where there is no TLS."""

    name: str
    certificate: str = ""


@dataclass(slots=True, kw_only=True)
class _Record:
    at_s: float
    """When the weight was counted."""
    weight: float = 0.0
    until_s: float = 0.0
    pause_s: float = 0.0
    reason: str = ""


class Quarantine:
    """See the module. Bounded: the record that holds nobody and is oldest is forgotten first."""

    def __init__(self, clock: Clock, rules: QuarantineRules | None = None) -> None:
        self.rules = rules or QuarantineRules()
        self.num_by_kind = {offence.kind: 0 for offence in (BROKEN, UNASKED, JOINED)}
        self.num_begun = 0
        self._clock = clock
        self._records: dict[Stranger, _Record] = {}
        self._strangers_left, self._counted_s = float(self.rules.max_strangers), clock.now_s()

    def check(self, who: Stranger) -> None:
        """Refuses whoever is in quarantine, by this name or with its certificate as a whole; says why and how long."""
        for key in (who, _whole(who)):
            record = self._records.get(key)
            if record is not None and (left_s := record.until_s - self._clock.now_s()) > 0.0:
                raise _refusal(who, record, left_s)

    def joins(self, who: Stranger) -> None:
        """It is about to be let in: counted, and refused where that is too often or too many come that nobody knows."""
        self.check(who)
        if who not in self._records:
            self._meet(who)
        if (refusal := self.offends(who, JOINED, "it joins again and again")) is not None:
            raise refusal

    def offends(self, who: Stranger, offence: Offence, reason: str) -> QuotaExceeded | None:
        """Counts an offence; what to dismiss it with where that was one too many."""
        self.num_by_kind[offence.kind] += 1
        record = self._count(who, offence.weight, reason)
        if record.weight <= self.rules.limit:
            return None
        self._begin(record)
        self.num_begun += 1
        if who.certificate:
            whole = self._count(_whole(who), _ANOTHER_NAME.weight, f"as {who.name} {reason}")
            if whole.weight > self.rules.limit:
                self._begin(whole)
        return _refusal(who, record, record.pause_s)

    def held(self) -> dict[str, str]:
        """The names that are in quarantine now, and why."""
        now_s = self._clock.now_s()
        return {who.name: record.reason for who, record in self._records.items() if who.name and record.until_s > now_s}

    # Inside

    def _meet(self, who: Stranger) -> None:
        now_s, rules = self._clock.now_s(), self.rules
        self._strangers_left = min(self._strangers_left + now_s - self._counted_s, float(rules.max_strangers))
        self._counted_s = now_s
        if self._strangers_left < 1.0:
            raise QuotaExceeded(
                f"drafter {who.name} is new here, and {rules.max_strangers} others just were too; try again later",
                retry_after_s=1.0,
            )
        self._strangers_left -= 1.0

    def _count(self, who: Stranger, weight: float, reason: str) -> _Record:
        now_s = self._clock.now_s()
        record = self._records.setdefault(who, _Record(at_s=now_s))
        record.weight *= 0.5 ** ((now_s - record.at_s) / self.rules.half_life_s)
        record.weight += weight
        record.at_s, record.reason = now_s, reason
        if len(self._records) > _MAX_RECORDS:
            others = (other for other in self._records if other != who)
            del self._records[min(others, key=lambda other: (self._records[other].until_s, self._records[other].at_s))]
        return record

    def _begin(self, record: _Record) -> None:
        now_s, rules = self._clock.now_s(), self.rules
        is_repeated = record.pause_s > 0.0 and now_s - record.until_s < rules.forget_s
        record.pause_s = min(2.0 * record.pause_s, rules.longest_pause_s) if is_repeated else rules.first_pause_s
        record.until_s, record.weight = now_s + record.pause_s, 0.0


def _whole(who: Stranger) -> Stranger:
    """All names of one certificate; nobody where there is none."""
    return Stranger(name="", certificate=who.certificate)


def _refusal(who: Stranger, record: _Record, left_s: float) -> QuotaExceeded:
    return QuotaExceeded(
        f"drafter {who.name} is in quarantine for {left_s:.0f} s: {record.reason}; mend it, and let it join after that",
        details={"state": "quarantined"},
        retry_after_s=left_s,
    )
