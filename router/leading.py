"""What a router does besides serving: it stands by until it leads, and falls silent when another one does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from contracts.errors import SpecfleetError
from router.front import Front
from router.journal.journal import LeaseLost
from router.journal.leadership import Leadership
from router.journal.learned import Learned
from router.journal.recorder import Recorder
from router.memories import DrafterMemories

__all__ = ["leading"]

_log = logging.getLogger(__name__)
_LAST_WORDS_S = 2.0


@asynccontextmanager
async def leading(
    front: Front, leadership: Leadership, recorder: Recorder, learned: Learned, memories: DrafterMemories
) -> AsyncIterator[None]:
    """Runs it beside the block. Where nobody leads, this router does from the start."""
    if await leadership.attempt():
        await learned.read()
    else:
        _log.info("another router leads; this one stands by")
    work = asyncio.create_task(_lead(front, leadership, recorder, learned, memories))
    work.add_done_callback(partial(_ended, front))
    try:
        yield
    finally:
        front.close()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await _leave(leadership, recorder, learned)


async def _lead(
    front: Front, leadership: Leadership, recorder: Recorder, learned: Learned, memories: DrafterMemories
) -> None:
    if not leadership.leads:
        await leadership.stand_by()
        _log.info("this router leads now")
        await learned.read()
    async with asyncio.TaskGroup() as beside:
        tasks = [beside.create_task(task) for task in (recorder.run(), recorder.watch(), learned.run(), memories.run())]
        await leadership.hold()
        front.fall_silent(LeaseLost("another router has taken over; resume there", retry_after_s=0.5))
        for task in tasks:
            task.cancel()


def _ended(front: Front, work: asyncio.Task[None]) -> None:
    """A router whose lease nobody keeps any more must not go on."""
    if not work.cancelled() and (error := work.exception()) is not None:
        _log.critical("the router cannot keep its lease, and ends", exc_info=error)
        front.leadership.lost.set()
        front.fall_silent(LeaseLost("this router has failed; resume when it is back", retry_after_s=1.0))


async def _leave(leadership: Leadership, recorder: Recorder, learned: Learned) -> None:
    """What is left to write, and another one may lead at once."""
    if not leadership.leads:
        return
    with contextlib.suppress(TimeoutError, SpecfleetError):
        async with asyncio.timeout(_LAST_WORDS_S):
            await recorder.flush()
            await learned.keep()
            await leadership.resign()
