"""vLLM's server as a peer, where a Python that has it is named: plainly, with a draft model, with prompt lookup."""

from __future__ import annotations

import json
import os
from contextlib import AbstractAsyncContextManager
from functools import cache, partial
from pathlib import Path
from typing import Any

from benchmarks.peers import openai_tokens
from benchmarks.peers.installed import printed
from benchmarks.peers.server_process import Face, ServerProcess, server_process
from contracts.errors import InvalidArgument

__all__ = ["PREFIX", "WAYS", "vllm_server", "vllm_version"]

PREFIX = "vllm-"
WAYS = ("plain", "draft", "lookup")
_ASKED = (
    "import vllm; from vllm.platforms import current_platform; print(vllm.__version__, current_platform.device_type)"
)
_START_S = 600.0  # it compiles its model
_CACHE_GIB = 1
_GPU_SHARE = 0.2  # three of these servers, SGLang's and the fleet share a GPU
_NUM_DRAFTS = 5  # this and the next as in vLLM's own documentation; there are no defaults
_LOOKUP = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_min": 2, "prompt_lookup_max": 5}


@cache
def vllm_version(python: str, device: str) -> str:
    """Refused, with what to do, where that Python has no vLLM for this device: it is built for one."""
    version, *built_for = printed(python, _ASKED, option="--vllm-python", name="vLLM", package="vllm").split()
    if built_for != [device]:
        raise InvalidArgument(
            f"{python} has vLLM {version} for {' '.join(built_for) or 'no device of this machine'}, and the fleet runs "
            f"on {device} here; install its build for {device}"
        )
    return version


def vllm_server(
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
    """`target` and `draft` are checkpoint folders. Each of so many requests at once has room for `context` tokens."""
    options: dict[str, object] = {
        "--dtype": dtype,
        "--max-model-len": context + _NUM_DRAFTS,
        "--max-num-seqs": together,
        "--no-enable-prefix-caching": None,  # cells ask the same prompts, and others read them each time
    }
    if device == "cuda":
        options["--gpu-memory-utilization"] = _GPU_SHARE
    if way != "plain":
        drafts = _LOOKUP if way == "lookup" else _draft_model(draft)
        options |= {"--speculative-config": json.dumps(drafts), "--per-request-spec-decode-metrics": "summary"}
    return server_process(
        f"{PREFIX}{way}",
        [python, "-m", "vllm.entrypoints.cli.main", "serve", target],
        options,
        face=Face(
            path=openai_tokens.PATH,
            body=openai_tokens.body,
            said=partial(openai_tokens.said_of, accepted_in=None if way == "plain" else _accepted_in),
        ),
        together=together,
        start_s=_START_S,
        environment={
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_KVCACHE_SPACE": str(_CACHE_GIB),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # nobody else's threads are bound; then the next is heeded
            "OMP_NUM_THREADS": str(threads),
            "LD_PRELOAD": ":".join([*_openmp(python), os.environ.get("LD_PRELOAD", "")]),
        },
    )


def _openmp(python: str) -> list[str]:
    """Its package for processors brings one, and asks for it to be loaded first: it is slow without."""
    library = Path(python).parent.parent / "lib" / "libiomp5.so"
    return [str(library)] if library.is_file() else []


def _draft_model(folder: str) -> dict[str, object]:
    return {"method": "draft_model", "model": folder, "num_speculative_tokens": _NUM_DRAFTS}


def _accepted_in(event: dict[str, Any]) -> list[int] | None:
    told: dict[str, Any] = (event.get("metrics") or {}).get("speculative_decoding") or {}
    return told.get("acceptance_histogram")
