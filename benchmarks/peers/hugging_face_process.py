"""Hugging Face `generate` as a process: see `line_process.py` for the lines that it reads and writes.

`python -m benchmarks.peers.hugging_face_process --help`. A way of generating has a process of its own, so that its
processor time and memory are its own.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import torch
import transformers

from benchmarks.peers.hugging_face import WAYS
from contracts.errors import InvalidArgument

__all__ = ["main"]

_LOOKUP_TOKENS = 10


def main() -> int:
    """The command: answers until there are no more questions."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.hugging_face_process")
    parser.add_argument("--way", choices=WAYS, required=True)
    parser.add_argument("--target", required=True, metavar="DIR")
    parser.add_argument("--assistant", metavar="DIR")
    parser.add_argument("--threads", type=int, required=True, metavar="N")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    dtype = getattr(torch, options.dtype)
    target = transformers.AutoModelForCausalLM.from_pretrained(options.target, dtype=dtype).to(options.device)
    speculation: dict[str, Any] = {}
    if options.way == "assisted":
        if options.assistant is None:
            raise InvalidArgument("--way assisted has no model to assist; name one with --assistant DIR")
        assistant = transformers.AutoModelForCausalLM.from_pretrained(options.assistant, dtype=dtype)
        speculation = {"assistant_model": assistant.to(options.device)}
    elif options.way == "lookup":
        speculation = {"prompt_lookup_num_tokens": _LOOKUP_TOKENS}
    print(json.dumps([]), flush=True)
    for line in sys.stdin:
        turn = json.loads(line)
        print(json.dumps([_answer(target, speculation, tokens, turn) for tokens in turn["questions"]]), flush=True)
    return 0


def _answer(target: Any, speculation: dict[str, Any], tokens: list[int], turn: dict[str, Any]) -> dict[str, Any]:
    prompt, clock = torch.tensor([tokens], device=target.device), _RoundClock()
    torch.manual_seed(turn["seed"])
    sampling: dict[str, Any] = {"do_sample": False}
    if turn["temperature"] > 0.0:
        sampling = {"do_sample": True, "temperature": turn["temperature"], "top_k": 0, "top_p": 1.0}
    began_s = time.perf_counter()
    target.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=turn["max_tokens"],
        streamer=clock,
        **sampling,
        **speculation,
    )
    return {"rounds": clock.rounds, "times_s": [at_s - began_s for at_s in clock.times_s]}


class _RoundClock(transformers.generation.streamers.BaseStreamer):  # type: ignore[misc]  # it is untyped
    """What every round brought, and when; `generate` puts the prompt first."""

    def __init__(self) -> None:
        self._has_prompt = False
        self.rounds: list[list[int]] = []
        self.times_s: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        if not self._has_prompt:
            self._has_prompt = True
            return
        self.rounds.append(value.flatten().tolist())
        self.times_s.append(time.perf_counter())

    def end(self) -> None:
        pass


if __name__ == "__main__":
    sys.exit(main())
