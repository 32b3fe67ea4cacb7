"""Hugging Face `generate` as a peer: one way of generating, in a process that stays warm."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.peer import Ask, RouterWork, Said
from benchmarks.peers.processes import with_children
from benchmarks.peers.workloads import Question
from contracts.errors import Unavailable

__all__ = ["PREFIX", "WAYS", "HuggingFace", "best_dtype", "hugging_face", "said"]

PREFIX = "hf-"
WAYS = ("plain", "assisted", "lookup")
_MAX_LINE = 2**24
_BFLOAT16_PRODUCTS = ("avx512_bf16", "amx_bf16", "bf16")


def best_dtype() -> str:
    """The quicker one for torch on this processor: where it has no products of bfloat16, they are worked out number by
    number, and a token takes many times as long as in float32."""
    has = torch.cpu.get_capabilities()
    return "bfloat16" if any(has.get(name) for name in _BFLOAT16_PRODUCTS) else "float32"


@dataclass(frozen=True, slots=True)
class HuggingFace:
    """One request at a time: with an assistant or prompt lookup `generate` takes no batch."""

    name: str
    process: asyncio.subprocess.Process
    log: Path
    max_together: int = 1

    def processes(self) -> list[int]:
        return with_children(self.process.pid)

    def router_work(self) -> RouterWork | None:
        return None

    async def answer(self, questions: Sequence[Question], ask: Ask) -> list[Said]:
        return [await self._say(question, ask) for question in questions]

    async def _say(self, question: Question, ask: Ask) -> Said:
        assert self.process.stdin is not None, "it was started with a pipe"
        line = json.dumps(
            {
                "tokens": question.tokens,
                "max_tokens": ask.max_tokens,
                "temperature": ask.temperature,
                "seed": ask.seed,
            }
        )
        self.process.stdin.write(line.encode() + b"\n")
        return said(await self.heard())

    async def heard(self) -> dict[str, Any]:
        """The next line that it writes."""
        assert self.process.stdout is not None, "it was started with a pipe"
        line = await self.process.stdout.readline()
        if not line:
            raise Unavailable(f"{self.name} has ended: {self.log.read_text()[-2000:]}")
        content: dict[str, Any] = json.loads(line)
        return content


def said(heard: dict[str, Any]) -> Said:
    """Every round brings the accepted draft tokens and one of the target's own."""
    rounds, times_s = heard["rounds"], heard["times_s"]
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
async def hugging_face(
    way: str, *, target: str, assistant: str | None, dtype: str, threads: int
) -> AsyncIterator[HuggingFace]:
    """Ready when its models are loaded."""
    arguments = ["--way", way, "--target", target, "--threads", str(threads), "--dtype", dtype]
    if assistant is not None:
        arguments += ["--assistant", assistant]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "benchmarks.peers.hugging_face_process", *arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
                limit=_MAX_LINE,
            )
        peer = HuggingFace(name=f"{PREFIX}{way}", process=process, log=log)
        try:
            await peer.heard()
            yield peer
        finally:
            if process.stdin is not None:
                process.stdin.close()
            if process.returncode is None:
                process.terminate()
            await process.wait()
