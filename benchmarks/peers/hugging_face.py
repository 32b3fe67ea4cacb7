"""Hugging Face `generate` as a peer: one way of generating, in a process that stays warm."""

from __future__ import annotations

import sys
from contextlib import AbstractAsyncContextManager

import torch

from benchmarks.peers.line_process import LineProcess, line_process

__all__ = ["PREFIX", "WAYS", "best_dtype", "hugging_face"]

PREFIX = "hf-"
WAYS = ("plain", "assisted", "lookup")
_BFLOAT16_PRODUCTS = ("avx512_bf16", "amx_bf16", "bf16")


def best_dtype() -> str:
    """The quicker one for torch on this machine: a processor that has no products of bfloat16 works them out number by
    number, and a token takes many times as long as in float32."""
    if torch.cuda.is_available():
        return "bfloat16"
    has = torch.cpu.get_capabilities()
    return "bfloat16" if any(has.get(name) for name in _BFLOAT16_PRODUCTS) else "float32"


def hugging_face(
    way: str, *, target: str, assistant: str | None, device: str, dtype: str, threads: int
) -> AbstractAsyncContextManager[LineProcess]:
    """One request at a time: with an assistant or prompt lookup `generate` takes no batch."""
    command = [sys.executable, "-m", "benchmarks.peers.hugging_face_process", "--way", way, "--target", target]
    command += ["--threads", str(threads), "--device", device, "--dtype", dtype]
    if assistant is not None:
        command += ["--assistant", assistant]
    return line_process(f"{PREFIX}{way}", command, threads=threads, max_together=1)
