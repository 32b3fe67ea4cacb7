"""What lives in a process of Ray's, as whoever placed it can ask and tell it: nothing here knows Ray.

A process is there for one node. The target's may have drafters as guests, who come and go by themselves: calls of one
caller start in order, but run at once, so each says on whose behalf it comes.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from cluster.hosting import ENDED, Hosted, Shared, drafter, verifier
from cluster.plan import VERIFIER, Dial
from contracts.config import DrafterConfig, EngineConfig, VerifierConfig
from contracts.logs import settle_logs

__all__ = ["ABSENT", "ENDED", "DrafterHost", "Host", "TargetHost", "digest_of"]

ABSENT = "absent"
"""What a drafter is in a process of the target that was started anew."""
_WATCH_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lodged:
    """A node in this process, and what it was made of; of a drafter in the target's also who wants it there."""

    hosted: Hosted
    made_of: str
    wanted_by: set[str] = field(default_factory=set)

    def state(self, after: int, timeout_s: float) -> dict[str, Any]:
        """How it is, with the process that it lives in."""
        state = self.hosted.state(after=after, timeout_s=timeout_s).to_plain()
        return {**state, "pid": os.getpid(), "made_of": self.made_of}


class Host:
    """What the two kinds of process have in common: one node that they are there for, and maybe others."""

    def __init__(self, kind: str, name: str) -> None:
        settle_logs(kind)
        self.name, self._shared = name, Shared()
        self._lodged: dict[str, _Lodged] = {}

    def state(self, name: str, after: int) -> dict[str, Any]:
        """How a node is, as soon as it is not as it was at version `after`."""
        lodged = self._lodged.get(name)
        return _nowhere("") if lodged is None else lodged.state(after, _WATCH_S)

    def leave(self) -> None:
        """Tells the node of this process to go."""
        self._lodged[self.name].hosted.leave()

    def end(self) -> None:
        """Ends the process in a way that Ray takes for an accident, after which it starts another."""
        os._exit(1)

    def told_of(self) -> dict[str, Hosted]:
        """All that live here, but for guests that were let go."""
        return {
            name: lodged.hosted
            for name, lodged in list(self._lodged.items())
            if name == self.name or not lodged.hosted.is_dismissed
        }


class TargetHost(Host):
    """The verifier group's process, and drafters that live in it."""

    def __init__(self, dial: Dial, engine: str, config: str, booked: str) -> None:
        super().__init__("verifier", VERIFIER)
        of = EngineConfig.model_validate(json.loads(engine))
        rounds = VerifierConfig.model_validate(json.loads(config))
        make = partial(verifier, VERIFIER, of, rounds)
        hosted = Hosted(make, shared=self._shared, router=dial.router, tls=dial.security.tls_of("verifier"))
        self._lodged[VERIFIER] = _Lodged(hosted=hosted, made_of=digest_of(dial, engine, config, booked))
        self._guests = threading.Lock()
        self._given_up = set[str]()
        """Whoever wants a drafter here no more; what they asked before may come after."""

    def lodge(self, stay: str, dial: Dial, name: str, config: str) -> dict[str, Any]:
        """Makes a drafter live here, unless one of that name does; and how it is. `stay` is who wants it."""
        settings = digest_of(dial, name, config)
        with self._guests:
            if stay in self._given_up:
                return {**_nowhere(settings), "phase": "left"}
            known = self._lodged.get(name)
            if known is None or known.hosted.is_over:
                known = self._lodged[name] = _Lodged(hosted=self._guest(dial, name, config), made_of=settings)
            known.wanted_by.add(stay)
        return known.state(-1, 0.0)

    def dismiss(self, stay: str, name: str) -> None:
        """Tells a drafter to go, if it is here for whoever wants it no more."""
        with self._guests:
            self._given_up.add(stay)
            known = self._lodged.get(name)
            if known is not None and stay in known.wanted_by:
                known.hosted.leave()

    def _guest(self, dial: Dial, name: str, config: str) -> Hosted:
        """It loads when the target has, and when its predecessor has ended, whose memory it may need."""
        target, before = self._lodged[VERIFIER].hosted, self._lodged.get(name)

        def wait() -> None:
            target.wait_until_loaded()
            if before is not None:
                before.hosted.wait_until_ended()

        make = partial(drafter, name, DrafterConfig.model_validate(json.loads(config)))
        tls = dial.security.tls_of("drafter")
        return Hosted(make, shared=self._shared, router=dial.router, tls=tls, wait=wait)


class DrafterHost(Host):
    """A drafter's process."""

    def __init__(self, dial: Dial, name: str, config: str) -> None:
        super().__init__("drafter", name)
        of = DrafterConfig.model_validate(json.loads(config))
        make = partial(drafter, name, of)
        hosted = Hosted(make, shared=self._shared, router=dial.router, tls=dial.security.tls_of("drafter"))
        self._lodged[name] = _Lodged(hosted=hosted, made_of=digest_of(dial, name, config))


def _nowhere(settings: str) -> dict[str, Any]:
    """The state of a drafter that is not in this process."""
    return {"version": 0, "phase": ABSENT, "reason": "", "pid": os.getpid(), "made_of": settings}


def digest_of(dial: Dial, *parts: str) -> str:
    """Tells two settings apart; whoever finds an actor that runs can see whether it is the one that is wanted."""
    return hashlib.sha256(json.dumps([dial.router, dial.security.model_dump_json(), *parts]).encode()).hexdigest()
