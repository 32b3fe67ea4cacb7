"""Processes that outlive their parents: on Linux they can be adopted, and ended. Elsewhere there is no such thing."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["adopt_orphans", "descendants", "end_orphans", "kill"]

_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.02


def adopt_orphans() -> None:
    """From now on, what a descendant of this process leaves behind becomes its child.

    For the end alone: who adopts must also collect the dead, and a supervisor that collects what it did not start
    takes it from those who wait for it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_orphans(patience_s: float) -> list[int]:
    """Ends all children that are left, which do not have long, and those whom they leave behind; whom it had to kill.

    Some need no more than a moment: they have seen that their parent is gone.
    """
    killed = list[int]()
    deadline_s = time.monotonic() + patience_s
    while left := _living(os.getpid()):
        if time.monotonic() > deadline_s:
            killed += left
            kill(left)
            deadline_s += patience_s
        time.sleep(_POLL_S)
    return killed


def descendants(pid: int) -> list[int]:
    """All processes below this one, parents first."""
    parents = dict[int, int]()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):  # it has ended meanwhile
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for parent in found:
        found += [child for child, of in parents.items() if of == parent]
    return found[1:]


def kill(pids: list[int]) -> None:
    """At once."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _living(parent: int) -> list[int]:
    """Its descendants, after collecting the children that have died."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return descendants(parent)
