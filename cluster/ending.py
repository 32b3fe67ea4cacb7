"""How a fleet is told to end: signals that are noted, and obeyed where that is safe."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from cluster.descendants import descendants, kill

__all__ = ["Ending", "Stopped"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_KILLED_STATUS = 130


class Stopped(Exception):
    """The fleet was told to end while something was being started."""


class Ending:
    """Whether the fleet should end. The first signal asks for it; the second kills every process at once.

    A signal raises nothing: in the midst of Ray's start that would leave processes that nobody knows of.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.is_wanted = False
        self._say = say

    def check(self) -> None:
        """Raises Stopped when the end is wanted."""
        if self.is_wanted:
            raise Stopped

    def listen(self) -> None:
        """Takes the signals; again where a library has taken them for itself. `nohup` is respected."""
        for number in _SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.is_wanted:
            print("killed", file=sys.stderr, flush=True)
            kill(descendants(os.getpid()))
            os._exit(_KILLED_STATUS)
        self.is_wanted = True
        self._say("ending; a second Ctrl-C kills")
