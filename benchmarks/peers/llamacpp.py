"""llama.cpp's server as a peer, where one is installed or named: plainly, or with a draft model."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from benchmarks.peers import hugging_face
from benchmarks.peers.line_process import said
from benchmarks.peers.peer import Ask, Said
from benchmarks.peers.server_process import Event, Face, ServerProcess, server_process
from benchmarks.peers.workloads import Question
from contracts.errors import InvalidArgument

__all__ = ["PREFIX", "WAYS", "best_dtype", "llama_server", "llama_server_version", "rounds_of"]

PREFIX = "llamacpp-"
WAYS = ("plain", "draft")
_START_S = 120.0
_CONTEXT_STEP = 256  # it wants room in such pieces


def llama_server_version(program: str) -> str:
    """Refused, with what to do, where there is no such program."""
    try:
        found = subprocess.run([program, "--version"], capture_output=True, text=True)
    except OSError as error:
        raise InvalidArgument(
            f"{program} does not start ({error.strerror}); build llama.cpp's server and name it with --llama-server"
        ) from error
    lines = (found.stdout + found.stderr).splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("version:")), "of no version")


def best_dtype(dtype: str) -> str:
    """Of the file that it is given beside ours in `dtype`: without products of bfloat16 it is quicker in float16, which
    takes as much memory."""
    return hugging_face.best_dtype().replace("float32", "float16") if dtype == "bfloat16" else dtype


def _body(question: Question, ask: Ask) -> dict[str, Any]:
    return {
        "prompt": list(question.tokens),
        "n_predict": ask.max_tokens,
        "temperature": ask.temperature,
        "seed": ask.seed,
        "samplers": ["temperature"],  # nothing that cuts the distribution
        "cache_prompt": False,  # every turn asks the same prompts, and others read them each time
        "return_tokens": True,
        "timings_per_token": True,
        "stream": True,
    }


def _said(events: Sequence[Event]) -> Said:
    return said(*rounds_of(events))


def rounds_of(events: Sequence[Event]) -> tuple[list[list[int]], list[float]]:
    """The tokens of each round, and when its last came.

    The server tells token by token, each time with how many draft tokens it has accepted so far: at the first token of
    a round by as many more as accepted ones follow it. Of a character that takes several tokens it tells the last one
    only; the others, whose number shows in its count, are given as the same token.
    """
    rounds: list[list[int]] = []
    times_s: list[float] = []
    num_told = num_accepted = num_due = 0
    for event, at_s in events:
        timings = event["timings"]
        for _ in range(timings["predicted_n"] - num_told) if event["tokens"] else ():
            if num_due == 0:
                now_accepted = timings.get("draft_n_accepted", 0)
                num_due, num_accepted = 1 + now_accepted - num_accepted, now_accepted
                rounds.append([])
                times_s.append(at_s)
            rounds[-1].append(event["tokens"][0])
            times_s[-1] = at_s
            num_due -= 1
            num_told += 1
    return rounds, times_s


def llama_server(
    way: str, *, program: str, target: Path, draft: Path, dtype: str, threads: int, together: int, context: int
) -> AbstractAsyncContextManager[ServerProcess]:
    """`target` and `draft` are GGUF files. Each of so many requests at once has room for `context` tokens."""
    room = -(-context // _CONTEXT_STEP) * _CONTEXT_STEP * together
    options: dict[str, object] = {
        "--model": target,
        "--threads": threads,
        "--parallel": together,
        "--ctx-size": room,
        "--cache-ram": 0,
    }
    if way == "draft":
        options |= {"--spec-type": "draft-simple", "--spec-draft-model": draft, "--spec-draft-threads": threads}
    if dtype == "float32":
        options |= {"--cache-type-k": "f32", "--cache-type-v": "f32"}
    return server_process(
        f"{PREFIX}{way}",
        [program],
        options,
        face=Face(path="/completion", body=_body, said=_said),
        together=together,
        start_s=_START_S,
    )
