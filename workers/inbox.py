"""Messages on their way from the event loop, which reads the stream, to the thread that works.

The loop is never blocked: while the thread is busy, messages wait here, and when too many wait, reading pauses and the
stream itself holds the router back.
"""

from __future__ import annotations

import asyncio
import queue
from typing import Generic, TypeVar

__all__ = ["Inbox"]

Item = TypeVar("Item")


class Inbox(Generic[Item]):
    """`put` and `close` belong to the event loop that it was made on, `take` to one other thread."""

    def __init__(self, *, capacity: int = 256) -> None:
        self.is_closed = False
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Semaphore(capacity)
        self._items: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._num_taken = 0
        self._enough_taken = capacity // 2

    async def put(self, item: Item) -> None:
        """Waits for room. After `close` nothing waits, and nothing goes in."""
        if not self.is_closed:
            await self._room.acquire()
        if not self.is_closed:
            self._items.put(item)

    def take(self, *, wait: bool = True, most_s: float | None = None) -> list[Item] | None:
        """All that came, in its order; None when it is closed, whatever was left in it. Waits for something, for ever
        or `most_s`."""
        taken: list[Item] = []
        while not self.is_closed and (wait or not self._items.empty()):
            try:
                item = self._items.get(timeout=most_s)
            except queue.Empty:
                break
            if item is not None:
                taken.append(item)
            wait = False
        if self.is_closed:
            return None
        self._make_room(len(taken))
        return taken

    def close(self) -> None:
        """Nothing is taken any more; whoever waits goes on."""
        self.is_closed = True
        self._items.put(None)
        self._room.release()  # only one task puts: the reader of the stream

    def _make_room(self, num_taken: int) -> None:
        """Waking the loop costs a little, so it hears of room not at once but when there is plenty."""
        self._num_taken += num_taken
        if self._num_taken > self._enough_taken:
            num_free, self._num_taken = self._num_taken, 0
            self._loop.call_soon_threadsafe(self._release, num_free)

    def _release(self, num_free: int) -> None:
        for _ in range(num_free):
            self._room.release()
