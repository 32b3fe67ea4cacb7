"""Who holds a lease, so that whoever wants it can tell, on the same machine, that its holder is dead for certain."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

__all__ = ["is_surely_dead", "new_holder"]

_STARTED = 19  # place of a process's start time in /proc/PID/stat, counted behind its name


def new_holder() -> str:
    """This process, and a number that no other holder has."""
    return "/".join([_machine() or "?", str(os.getpid()), _started(os.getpid()) or "?", secrets.token_hex(8)])


def is_surely_dead(owner: str) -> bool:
    """Whether the owner of a lease was a process of this machine and is none any more. Of others nothing is known."""
    parts = owner.partition(":")[2].split("/")
    if len(parts) != 5 or "/".join(parts[:2]) != _machine() or not parts[2].isdecimal() or parts[3] == "?":
        return False
    return _started(int(parts[2])) != parts[3]


def _machine() -> str | None:
    """This run of this machine, and the space in which its process ids mean something; None where neither is known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """When a process started; None if there is none. One that is dead and not yet buried is none."""
    try:
        content = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = content.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[_STARTED]
