"""OpenVINO GenAI as a process: see `line_process.py` for the lines that it reads and writes.

It may run under a Python that has OpenVINO GenAI and nothing of what this repository needs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai

__all__ = ["main"]

_NUM_ASSISTANT_TOKENS = 5  # as in OpenVINO's own samples; there is no default
_CACHE_GIB = 1


def main() -> int:
    """The command: answers until there are no more questions."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.openvino_process")
    parser.add_argument("--target", type=Path, required=True, metavar="GGUF")
    parser.add_argument("--assistant", type=Path, metavar="GGUF")
    parser.add_argument("--threads", type=int, required=True, metavar="N")
    options = parser.parse_args()
    scheduling = openvino_genai.SchedulerConfig()
    scheduling.cache_size = _CACHE_GIB
    scheduling.enable_prefix_caching = False  # every turn asks the same prompts, and others read them each time
    properties: dict[str, Any] = {"INFERENCE_NUM_THREADS": options.threads}
    if options.assistant is not None:
        folder = _converted(options.assistant)
        properties["draft_model"] = openvino_genai.draft_model(folder, "CPU", INFERENCE_NUM_THREADS=options.threads)
    pipeline = openvino_genai.ContinuousBatchingPipeline(options.target, scheduling, "CPU", properties)
    print(json.dumps([]), flush=True)
    for line in sys.stdin:
        print(json.dumps(_answers(pipeline, json.loads(line), _generation(options.assistant))), flush=True)
    return 0


def _converted(path: Path) -> Path:
    """OpenVINO reads GGUF files as targets only; it can write what it made of one beside it, and reads that."""
    openvino_genai.LLMPipeline(path, "CPU", enable_save_ov_model=True)
    return path.parent


def _generation(assistant: Path | None) -> Any:
    generation = openvino_genai.GenerationConfig()
    if assistant is not None:
        generation.num_assistant_tokens = _NUM_ASSISTANT_TOKENS
    return generation


def _answers(pipeline: Any, turn: dict[str, Any], generation: Any) -> list[dict[str, Any]]:
    """All questions, at most so many at a time; a step is a round of all that are being answered."""
    generation.max_new_tokens = turn["max_tokens"]
    generation.set_eos_token_id(pipeline.get_tokenizer().get_eos_token_id())
    generation.do_sample = turn["temperature"] > 0.0
    if generation.do_sample:
        generation.temperature, generation.rng_seed = turn["temperature"], turn["seed"]
    answers: list[dict[str, Any]] = [{"rounds": [], "times_s": []} for _ in turn["questions"]]
    waiting, running = deque(enumerate(turn["questions"])), dict[int, tuple[Any, float]]()
    while waiting or running:
        while waiting and len(running) < turn["together"]:
            number, tokens = waiting.popleft()
            asked = openvino.Tensor(np.array([tokens], dtype=np.int64))
            running[number] = pipeline.add_request(number, asked, generation), time.perf_counter()
        pipeline.step()
        for number, (handle, began_s) in list(running.items()):
            if handle.can_read():
                (output,) = handle.read().values()
                answers[number]["rounds"].append(list(output.generated_ids))
                answers[number]["times_s"].append(time.perf_counter() - began_s)
            if not handle.can_read() and handle.get_status() != openvino_genai.GenerationStatus.RUNNING:
                del running[number]
    return answers


if __name__ == "__main__":
    sys.exit(main())
