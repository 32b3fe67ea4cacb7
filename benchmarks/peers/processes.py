"""What processes take, as Linux counts it: processor time, and the most memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["cpu_s", "forget_peak", "peak_bytes", "with_children"]

_PROC = Path("/proc")
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_FORGET_PEAK = "5"  # see clear_refs in proc(5)


def with_children(process: int) -> list[int]:
    """A process and all that it has started, and those have."""
    found = [process]
    for task in (_PROC / str(process) / "task").iterdir():
        for child in (task / "children").read_text().split():
            found += with_children(int(child))
    return found


def cpu_s(processes: Sequence[int]) -> float:
    """Of all their threads since they began."""
    total = 0
    for process in processes:
        # The name, in brackets, may hold anything; what is counted here are fields 14 and 15.
        fields = (_PROC / str(process) / "stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS_A_SECOND


def forget_peak(processes: Sequence[int]) -> None:
    """From now on `peak_bytes` speaks of what comes after."""
    for process in processes:
        (_PROC / str(process) / "clear_refs").write_text(_FORGET_PEAK)


def peak_bytes(processes: Sequence[int]) -> int:
    """The peaks of all, added: pages that several share, as those of libraries, count for each."""
    return sum(_peak_bytes(process) for process in processes)


def _peak_bytes(process: int) -> int:
    for line in (_PROC / str(process) / "status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
