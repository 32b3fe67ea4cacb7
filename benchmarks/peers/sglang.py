"""SGLang's server as a peer, where a Python that has it is named: plainly, with a draft model, with prompt lookup."""

from __future__ import annotations

import os
from contextlib import AbstractAsyncContextManager
from functools import cache, partial
from itertools import islice
from typing import Any

from benchmarks.peers import openai_tokens
from benchmarks.peers.installed import printed
from benchmarks.peers.peer import Ask
from benchmarks.peers.server_process import Face, ServerProcess, server_process
from benchmarks.peers.workloads import Question
from contracts.errors import InvalidArgument

__all__ = ["PREFIX", "WAYS", "sglang_server", "sglang_version"]

PREFIX = "sglang-"
WAYS = ("plain", "draft", "lookup")
_ASKED = "import sglang; from sglang.srt.utils import get_device; print(sglang.__version__, get_device())"
_START_S = 600.0  # it compiles its kernels
_DRAFT_ROOM = 64  # of a request: what it drafts beside what it has


@cache
def sglang_version(python: str, device: str) -> str:
    """Refused, with what to do, where that Python has no SGLang that finds this device."""
    version, *found = printed(
        python,
        _ASKED,
        option="--sglang-python",
        name="SGLang",
        package="sglang",
        environment=_environment(device, threads=1),
    ).split()
    if found != [device]:
        raise InvalidArgument(
            f"{python} has SGLang {version}, which would run on {' '.join(found)}, and the fleet runs on {device} "
            f"here; install its build for {device}"
        )
    return version


def sglang_server(
    way: str,
    *,
    python: str,
    target: str,
    draft: str,
    device: str,
    dtype: str,
    threads: int,
    together: int,
    context: int,
) -> AbstractAsyncContextManager[ServerProcess]:
    """`target` and `draft` are checkpoint folders. Each of so many requests at once has room for `context` tokens. How
    much it drafts is left to it."""
    options: dict[str, object] = {
        "--model-path": target,
        "--device": device,
        "--dtype": dtype,
        "--max-running-requests": together,
        "--max-total-tokens": together * (context + _DRAFT_ROOM),
        "--disable-radix-cache": None,  # cells ask the same prompts, and others read them each time
    }
    if device == "cpu":
        options["--disable-overlap-schedule"] = None
    if way == "draft":
        options |= {"--speculative-algorithm": "STANDALONE", "--speculative-draft-model-path": draft}
    elif way == "lookup":
        options["--speculative-algorithm"] = "NGRAM"
    return server_process(
        f"{PREFIX}{way}",
        [python, "-m", "sglang.launch_server"],
        options,
        face=Face(
            path=openai_tokens.PATH,
            body=_body,
            said=partial(openai_tokens.said_of, accepted_in=None if way == "plain" else _accepted_in),
            # It looks up what it has answered to anyone, and cells ask the same.
            forget_path="/flush_cache" if way == "lookup" else None,
        ),
        together=together,
        start_s=_START_S,
        environment={"HF_HUB_OFFLINE": "1", **_environment(device, threads)},
    )


def _environment(device: str, threads: int) -> dict[str, str]:
    """On a processor it computes only where it is told to, on the cores that it is given."""
    if device != "cpu":
        return {}
    cores = islice(sorted(os.sched_getaffinity(0)), threads)
    return {
        "SGLANG_USE_CPU_ENGINE": "1",
        "SGLANG_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
        "OMP_NUM_THREADS": str(threads),
    }


def _body(question: Question, ask: Ask) -> dict[str, Any]:
    return {**openai_tokens.body(question, ask), "return_spec_tokens_details": True}


def _accepted_in(event: dict[str, Any]) -> list[int] | None:
    told: dict[str, Any] = (event.get("sglext") or {}).get("spec_tokens_details") or {}
    return told.get("spec_correct_drafts_histogram")
