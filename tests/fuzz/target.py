"""What is fuzzed: a whole fleet over real sockets, and what must be as before when it is left in peace."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
import httpx

from contracts.config import DrafterConfig
from contracts.errors import STATUS, Internal
from router.front import FrontLimits
from router.http.limits import HttpLimits
from tests.engine.checkpoints import write_checkpoint
from tests.service.fleet import RunningFleet, engine_of, running_fleet

DEADLINE_S = 60.0
DOCUMENTED = frozenset(status.grpc for status in STATUS.values()) - {STATUS[Internal].grpc}
DOCUMENTED_HTTP = frozenset(status.http for status in STATUS.values()) - {STATUS[Internal].http}
KINDS = frozenset(kind.__name__ for kind in STATUS)
_NOBODY_LISTENS = "ExecuteBatchError"  # gRPC's own words for an answer to a caller who has gone
_SPARE_FILES, _SPARE_TASKS = 12, 4  # gRPC keeps a few of its own


@dataclass
class Target:
    """`heard` counts what came of requests, by code."""

    fleet: RunningFleet
    http: httpx.AsyncClient
    heard: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    """What the router's process said to nobody in particular: errors in its log, exceptions that nobody caught."""

    def hears(self, error: grpc.aio.AioRpcError, said: object) -> None:
        """A refusal: of a kind that is documented, and with words."""
        code = error.code().name
        self.heard[code] += 1
        assert code in DOCUMENTED, (said, code, error.details())
        assert error.details(), (said, code)

    async def is_well(self) -> None:
        """Good requests have their answers, nothing failed unseen, and what was taken is given back."""
        async with asyncio.timeout(DEADLINE_S):
            assert (await self.fleet.say("the cat", max_tokens=2)).tokens
            answer = await self.http.post("/v1/completions", json={"prompt": "the cat", "max_tokens": 2})
            assert answer.status_code == 200, answer.text
        assert not self.faults, self.faults
        assert "verifier" in self.fleet.router.fleet.streams

    async def is_as_before(self, before: Holdings) -> None:
        """Waits until nothing more is held than before, but for what the client of the fuzzing held itself."""
        await self.http.aclose()
        self.http = _client(self.fleet)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DEADLINE_S):
                while not (await self.holds()).at_most(before):  # noqa: ASYNC110  # nobody tells
                    await asyncio.sleep(0.02)
        now = await self.holds()
        assert now.at_most(before), f"it held {before}, and holds {now}: {asyncio.all_tasks()}"

    async def holds(self) -> Holdings:
        router = self.fleet.router
        verifier = router.scheduler.verifier
        assert verifier is not None, "nobody fuzzes verifiers"
        return Holdings(
            num_running=len(router.scheduler.running),
            num_waiting=len(router.scheduler.waiting),
            num_requests=len(router.front.requests()),
            num_reserved_blocks=verifier.num_reserved_blocks,
            num_used_blocks=verifier.offer.num_blocks - verifier.num_free_blocks,
            num_streams=len(router.fleet.streams),
            num_tasks=len(asyncio.all_tasks()),
            num_files=_num_files(),
        )


@dataclass(frozen=True, kw_only=True)
class Holdings:
    """What a router can leak."""

    num_running: int
    num_waiting: int
    num_requests: int
    num_reserved_blocks: int
    num_used_blocks: int
    num_streams: int
    num_tasks: int
    num_files: int

    def at_most(self, other: Holdings) -> bool:
        """Whether it is no more; blocks in use are a cache of prefixes, which may stay full."""
        return (
            self.num_running <= other.num_running
            and self.num_waiting <= other.num_waiting
            and self.num_requests <= other.num_requests
            and self.num_reserved_blocks <= other.num_reserved_blocks
            and self.num_streams <= other.num_streams
            and self.num_tasks <= other.num_tasks + _SPARE_TASKS
            and self.num_files <= other.num_files + _SPARE_FILES
        )


@contextlib.asynccontextmanager
async def target() -> AsyncIterator[Target]:
    """Answers are forgotten soon, so that what stays is a leak."""
    # A stalled machine must not look like a client that has gone: of that a plain answer would be cut short.
    limits = FrontLimits(max_waiting=16, keep_s=0.5, grace_s=5.0)
    http_limits = HttpLimits(max_body=200_000, head_s=2.0, body_s=2.0, stall_s=5.0)
    with tempfile.TemporaryDirectory() as directory:
        folder = write_checkpoint(Path(directory) / "tiny", "llama")
        (folder / "chat_template.jinja").write_text("{% for message in messages %}{{ message.content }}\n{% endfor %}")
        drafters = {"lookup": DrafterConfig(kind="prompt_lookup")}
        async with (
            running_fleet(engine_of(folder), drafters, limits=limits, http_limits=http_limits) as fleet,
        ):
            found = Target(fleet, _client(fleet))
            try:
                with _listening(found.faults):
                    yield found
            finally:
                await found.http.aclose()


def _client(fleet: RunningFleet) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{fleet.http_port}", timeout=DEADLINE_S)


def _num_files() -> int:
    """Open ones; 0 where nobody counts them."""
    return len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0


@contextlib.contextmanager
def _listening(faults: list[str]) -> Iterator[None]:
    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info[1] if record.exc_info else None
            if type(error).__name__ != _NOBODY_LISTENS:
                faults.append(self.format(record))

    loop, handler = asyncio.get_running_loop(), Handler(logging.ERROR)
    logging.getLogger().addHandler(handler)
    logging.getLogger("uvicorn.error").addHandler(handler)
    loop.set_exception_handler(lambda _, context: faults.append(str(context)))
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        logging.getLogger("uvicorn.error").removeHandler(handler)
        loop.set_exception_handler(None)
