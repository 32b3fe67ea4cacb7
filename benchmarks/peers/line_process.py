"""A peer that is a process of its own and stays warm: the questions of a turn go, and its answers come, as a line of
JSON."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.peer import Ask, RouterWork, Said
from benchmarks.peers.processes import with_children
from benchmarks.peers.workloads import Question
from contracts.errors import Unavailable

__all__ = ["LineProcess", "line_process", "said"]

_MAX_LINE = 2**24


@dataclass(frozen=True, slots=True, kw_only=True)
class LineProcess:
    name: str
    process: asyncio.subprocess.Process
    log: Path
    max_together: int | None

    def processes(self) -> list[int]:
        return with_children(self.process.pid)

    def router_work(self) -> RouterWork | None:
        return None

    async def answer(self, questions: Sequence[Question], ask: Ask) -> list[Said]:
        assert self.process.stdin is not None, "it was started with a pipe"
        line = json.dumps(
            {
                "questions": [question.tokens for question in questions],
                "max_tokens": ask.max_tokens,
                "temperature": ask.temperature,
                "seed": ask.seed,
                "together": ask.together,
            }
        )
        self.process.stdin.write(line.encode() + b"\n")
        return [said(answer["rounds"], answer["times_s"]) for answer in await self.heard()]

    async def heard(self) -> list[dict[str, Any]]:
        """The next line that it writes."""
        assert self.process.stdout is not None, "it was started with a pipe"
        line = await self.process.stdout.readline()
        if not line:
            raise Unavailable(f"{self.name} has ended: {self.log.read_text()[-2000:]}")
        content: list[dict[str, Any]] = json.loads(line)
        return content


def said(rounds: Sequence[Sequence[int]], times_s: Sequence[float]) -> Said:
    """Every round brings the accepted draft tokens and one of the target's own."""
    tokens = tuple(token for round_ in rounds for token in round_)
    accepted = Counter(max(len(round_) - 1, 0) for round_ in rounds)
    return Said(
        token_ids=tokens,
        first_token_s=times_s[0],
        token_s=(times_s[-1] - times_s[0]) / (len(tokens) - 1) if len(tokens) > 1 else None,
        num_rounds=len(rounds),
        acceptance_histogram=tuple(accepted[depth] for depth in range(max(accepted) + 1)),
    )


@contextlib.asynccontextmanager
async def line_process(
    name: str, command: Sequence[str], *, threads: int, max_together: int | None
) -> AsyncIterator[LineProcess]:
    """Ready when it has said its first line, an empty list."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
                limit=_MAX_LINE,
            )
        peer = LineProcess(name=name, process=process, log=log, max_together=max_together)
        try:
            await peer.heard()
            yield peer
        finally:
            if process.stdin is not None:
                process.stdin.close()
            if process.returncode is None:
                process.terminate()
            await process.wait()
