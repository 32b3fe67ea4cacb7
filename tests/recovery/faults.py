"""What is done to a fleet while it works. Each fault does its harm, and heals it where it does not heal by itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.recovery.fleet import HarmedFleet

__all__ = ["FAULTS", "NEED_A_DISK", "Fault"]

_HUNG_S = 9.0  # longer than it takes to notice that a peer answers no more
_NUM_PULSES, _PULSE_S = 12, 0.25


@dataclass(frozen=True, slots=True)
class Fault:
    """`how` is for the report. What shows that it was felt: at least so many processes are started again, and the
    router says these words.
    """

    how: str
    harm: Callable[[HarmedFleet], Awaitable[None]]
    num_restarts: int = 0
    says: str = ""


async def _kill_drafter(fleet: HarmedFleet) -> None:
    fleet.signal("twin", signal.SIGKILL)


async def _kill_first_rank(fleet: HarmedFleet) -> None:
    fleet.signal("verifier", signal.SIGKILL)


async def _kill_other_rank(fleet: HarmedFleet) -> None:
    (rank,) = fleet.ranks()
    os.kill(rank, signal.SIGKILL)


async def _kill_router(fleet: HarmedFleet) -> None:
    fleet.router.signal(signal.SIGKILL)


async def _kill_all(fleet: HarmedFleet) -> None:
    fleet.router.signal(signal.SIGKILL)
    for name in fleet.workers:
        fleet.signal(name, signal.SIGKILL)


async def _kill_store(fleet: HarmedFleet) -> None:
    fleet.store.kill()
    await asyncio.sleep(1.0)
    await asyncio.to_thread(fleet.store.start)


async def _hang_verifier(fleet: HarmedFleet) -> None:
    pids = [fleet.workers["verifier"].pid, *fleet.ranks()]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(_HUNG_S)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


async def _hang_drafter(fleet: HarmedFleet) -> None:
    fleet.signal("twin", signal.SIGSTOP)
    await asyncio.sleep(_HUNG_S)
    fleet.signal("twin", signal.SIGCONT)


async def _slow_verifier(fleet: HarmedFleet) -> None:
    for _ in range(_NUM_PULSES):
        fleet.signal("verifier", signal.SIGSTOP)
        await asyncio.sleep(_PULSE_S)
        fleet.signal("verifier", signal.SIGCONT)
        await asyncio.sleep(_PULSE_S / 5)


async def _jump_clocks(fleet: HarmedFleet) -> None:
    for offset_s in (3600.0, -3600.0, 0.0):
        fleet.set_clocks(offset_s)
        await asyncio.sleep(0.7)


async def _fill_disk(fleet: HarmedFleet) -> None:
    filler = fleet.store.folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    await asyncio.sleep(2.0)
    filler.unlink()


FAULTS = {
    "drafter lost": Fault("SIGKILL", _kill_drafter, 1, "twin left"),
    "first rank of the verifier lost": Fault("SIGKILL in mid-round", _kill_first_rank, 1, "verifier left"),
    "second rank of the verifier lost": Fault("SIGKILL in mid-round", _kill_other_rank, 1, "verifier left"),
    "router lost": Fault("SIGKILL", _kill_router, 1, "go on where another router left them"),
    "store lost": Fault("SIGKILL, back after a second", _kill_store, 0, "the store is back"),
    "everything but the store lost": Fault(
        "SIGKILL of router, verifier and drafters", _kill_all, 4, "go on where another router left them"
    ),
    "no room on the store's disk": Fault("disk filled for 2 s", _fill_disk, 0, "the store is back"),
    "clocks jump": Fault("an hour ahead, then two back, of all processes but the store", _jump_clocks),
    "drafter hangs": Fault(f"SIGSTOP for {_HUNG_S:.0f} s", _hang_drafter, 0, "twin left"),
    "verifier hangs": Fault(f"SIGSTOP of both ranks for {_HUNG_S:.0f} s", _hang_verifier, 0, "verifier left"),
    "verifier is slow": Fault(f"SIGSTOP for {_PULSE_S} s, {_NUM_PULSES} times", _slow_verifier),
}
NEED_A_DISK = frozenset({"no room on the store's disk"})
