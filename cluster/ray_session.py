"""The Ray under a fleet: opened at its start, replaced or waited for when it is lost, closed at its end.

Ray carries no tokens: router, store and workers do without it until one of the workers dies.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.descendants import adopt_orphans, descendants, kill
from cluster.ending import Ending, Stopped
from cluster.ray_settings import needs_token, reconnect_s, settle_environment
from contracts.clock import Clock
from contracts.errors import Unavailable

if TYPE_CHECKING:
    from cluster.ray_api import Cluster, Part

__all__ = ["RaySession"]

_PATIENT_PART = 0.5  # of the time after which Ray ends processes that find no head: the end shall be in order
_LOOK_S = 0.2


class RaySession:
    """One of our own on this machine, or the one at `address`, where with `outlives` what is placed outlives us."""

    def __init__(
        self,
        address: str | None,
        *,
        folder: Path,
        has_dashboard: bool,
        outlives: bool,
        is_insecure: bool,
        say: Callable[[str], None],
        ending: Ending,
        clock: Clock,
    ) -> None:
        self._address, self._folder, self._has_dashboard = address, folder, has_dashboard
        self._outlives = outlives
        self._needs_token = needs_token(address, is_insecure=is_insecure)
        self._say, self._ending, self._clock = say, ending, clock
        self.cluster: Cluster

    @property
    def is_local(self) -> bool:
        return self._address is None

    def open(self) -> None:
        """Starts it, or connects to it."""
        self._ending.check()
        settle_environment(is_local=self.is_local, needs_token=self._needs_token)
        from cluster.ray_api import Cluster  # here, for it loads Ray, which reads the environment once

        try:
            if self._address is None:
                self.cluster = self._own(Cluster)
            else:
                self.cluster = Cluster.existing(self._address, needs_token=self._needs_token, outlives=self._outlives)
        except SystemExit:  # Ray's own answer to SIGTERM while it starts; it has ended its processes
            raise Stopped from None
        finally:
            self._ending.listen()
        self._say(f"Ray: {self.cluster.address}, {len(self.cluster.nodes())} nodes")

    def _own(self, cluster: type[Cluster]) -> Cluster:
        """Started a second time where the first fails: Ray gives itself half a minute, and a machine may be busy."""
        others = descendants(os.getpid())
        try:
            return cluster.local(folder=self._folder, has_dashboard=self._has_dashboard)
        except Unavailable as error:
            self._say(f"{error}; tried once more")
        theirs = {pid for other in others for pid in (other, *descendants(other))}
        kill([pid for pid in descendants(os.getpid()) if pid not in theirs])  # Ray leaves what it had started
        self._ending.check()
        return cluster.local(folder=self._folder, has_dashboard=self._has_dashboard)

    def close(self) -> None:
        """Ends what was placed, unless that outlives us, and a Ray of our own. A lost head of others is asked nothing:
        it would take long.
        """
        adopt_orphans()
        if self.is_local or self.cluster.lost() is None:
            self.cluster.shut_down()

    def replace(self, lost: Part) -> None:
        """Another one of our own. What was placed on the old one ends with it."""
        self._say(f"Ray's {lost} is lost; a new Ray is started, and all workers on it; requests wait for them")
        self.cluster.shut_down()
        self.open()

    def wait(self, lost: Part, meanwhile: Callable[[], None]) -> None:
        """Until a cluster's head is back; Unavailable where there is nothing to wait for, or no more."""
        if lost == "raylet":
            raise Unavailable("the raylet of this machine is lost, without which it has no part in the Ray cluster")
        began_s, patience_s = self._clock.now_s(), _PATIENT_PART * reconnect_s(os.environ)
        self._say(
            f"Ray's head at {self.cluster.address} is lost; what runs goes on, what dies stays dead until the head is "
            f"back, and if that takes more than {patience_s:.0f} s the fleet ends"
        )
        while self.cluster.lost() is not None and not self._ending.is_wanted:
            if self._clock.now_s() > began_s + patience_s:
                raise Unavailable(f"Ray's head at {self.cluster.address} was not back within {patience_s:.0f} s")
            meanwhile()
            time.sleep(_LOOK_S)
        self._say(f"Ray's head is back after {self._clock.now_s() - began_s:.1f} s")
