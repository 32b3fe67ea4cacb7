"""Several streams as one, each item when it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Generic, TypeVar

__all__ = ["merged"]

Item = TypeVar("Item")
_MAX_WAITING = 64


class _End:
    def __init__(self, error: Exception | None) -> None:
        self.error = error


class _Read(Generic[Item]):
    def __init__(self, item: Item) -> None:
        self.item = item


async def merged(streams: Sequence[AsyncIterator[Item]]) -> AsyncIterator[Item]:
    """Items of all, those of one stream in their order. Whoever does not take them holds all streams up. The first
    error of a stream ends it all."""
    waiting: asyncio.Queue[_Read[Item] | _End] = asyncio.Queue(_MAX_WAITING)

    async def read(stream: AsyncIterator[Item]) -> None:
        try:
            async for item in stream:
                await waiting.put(_Read(item))
        except Exception as error:  # noqa: BLE001  # it is raised where the items are taken
            await waiting.put(_End(error))
        else:
            await waiting.put(_End(None))

    readers = [asyncio.create_task(read(stream)) for stream in streams]
    num_open = len(readers)
    try:
        while num_open:
            news = await waiting.get()
            if isinstance(news, _Read):
                yield news.item
            elif news.error is not None:
                raise news.error
            else:
                num_open -= 1
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
