"""The journal that a configuration asks for."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from contracts.clock import Clock
from contracts.config import StoreConfig
from router.journal.journal import Journal
from router.journal.memory import MemoryJournal
from router.journal.redis_journal import RedisJournal

__all__ = ["check_store", "open_journal"]

_log = logging.getLogger(__name__)


async def check_store(config: StoreConfig, clock: Clock) -> None:
    """Whether the store can be used; ConfigError or StoreLost with what is wrong."""
    async with open_journal(config, clock):
        pass


@asynccontextmanager
async def open_journal(config: StoreConfig, clock: Clock) -> AsyncIterator[Journal]:
    """Checked, so that a store which cannot be used is known before anyone relies on it."""
    if config.url == "embedded":
        _log.warning("store.url is embedded, which only `cluster up` starts: nothing outlives this router")
    is_in_memory = config.url in ("memory", "embedded")
    journal: Journal = MemoryJournal(clock, keep_s=config.keep_s) if is_in_memory else RedisJournal(config)
    try:
        await journal.check()
        yield journal
    finally:
        await journal.close()
