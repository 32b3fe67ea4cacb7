"""The engine beside Hugging Face on this machine, in one run: `python -m benchmarks.engine`.

Random weights in two shapes: a target of 291 M parameters and a drafter of 3 M, bfloat16, context 256. Everything
that is compared is measured in turn, round by round; figures are medians, ratios are taken pair by pair.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.random_models import write_random_model
from benchmarks.timing import describe_machine, interleaved, memory_bytes_per_s, ratio
from contracts.config import EngineConfig
from contracts.types import DrafterId, DraftNode, SamplingParams, SequenceId
from engine.engine import Engine
from engine.load import load_engine
from engine.work import Verify

__all__ = ["main"]

CONTEXT = 256
ROW_COUNTS = (1, 2, 4, 8, 12, 16)
KV_CACHE_BYTES = 256 * 2**20
_SEQUENCE = SequenceId("measured")


class EngineRun:
    """One engine with a sequence of CONTEXT tokens, from which every measurement starts afresh."""

    def __init__(self, folder: Path, *, num_threads: int, compiled: bool, temperature: float = 0.0) -> None:
        config = EngineConfig(
            model=str(folder),
            num_threads=num_threads,
            kv_cache_bytes=KV_CACHE_BYTES,
            compiled_step="on" if compiled else "off",
            prefix_cache=False,
        )
        self.engine: Engine = load_engine(config).engine
        self.sampling = SamplingParams(temperature=temperature, seed=1)
        self.prompt = _prompt(self.engine.identity.vocab_size)

    def restart(self) -> None:
        if self.engine.num_free_blocks < self.engine.pool.num_blocks:
            self.engine.close(_SEQUENCE)
        self.engine.open(_SEQUENCE, self.prompt, self.sampling)
        self.engine.step([Verify(sequence=_SEQUENCE)])

    def decode_s(self, num_tokens: int) -> float:
        """Seconds per token of plain decoding."""
        self.restart()
        started_s = time.perf_counter()
        for _ in range(num_tokens):
            self.engine.step([Verify(sequence=_SEQUENCE)])
        return (time.perf_counter() - started_s) / num_tokens

    def pass_s(self, num_rows: int) -> float:
        """Seconds of one pass over a chain of `num_rows` rows below the sequence as it stands."""
        nodes = tuple(
            DraftNode(token=index, parent=index - 1, confidence=0.5, drafter=DrafterId("chain"))
            for index in range(num_rows - 1)
        )
        return self.engine.step([Verify(sequence=_SEQUENCE, nodes=nodes)]).report.elapsed_s

    def prefill_s(self) -> float:
        """Seconds to read the prompt."""
        self.restart()
        self.engine.close(_SEQUENCE)
        self.engine.open(_SEQUENCE, self.prompt, self.sampling)
        return self.engine.step([Verify(sequence=_SEQUENCE)]).report.elapsed_s

    def num_bytes(self) -> int:
        return self.engine.executor.weights.num_bytes


class HuggingFaceRun:
    """`generate` of transformers on the same folder, timed token by token after the first."""

    def __init__(self, folder: Path) -> None:
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        self.prompt = torch.tensor([_prompt(self.model.config.vocab_size)])

    def decode_s(self, num_tokens: int) -> float:
        clock = _TokenClock()
        self.model.generate(
            self.prompt,
            attention_mask=torch.ones_like(self.prompt),
            min_new_tokens=num_tokens + 1,
            max_new_tokens=num_tokens + 1,
            do_sample=False,
            streamer=clock,
        )
        return (
            clock.times_s[-1] - clock.times_s[1]
        ) / num_tokens  # the first entry is the prompt, the second its token

    def restart(self) -> None:
        with torch.inference_mode():
            self.cache = self.model(self.prompt, logits_to_keep=1).past_key_values

    def pass_s(self, num_rows: int) -> float:
        """Seconds of one pass over a chain of `num_rows` rows, as a verification by transformers does it."""
        with torch.inference_mode():
            started_s = time.perf_counter()
            self.model(self.prompt[:, :num_rows], past_key_values=self.cache)
            elapsed_s = time.perf_counter() - started_s
            self.cache.crop(-num_rows)
        return elapsed_s

    def prefill_s(self) -> float:
        started_s = time.perf_counter()
        with torch.inference_mode():
            self.model(self.prompt, logits_to_keep=1)
        return time.perf_counter() - started_s


class _TokenClock(transformers.generation.streamers.BaseStreamer):  # type: ignore[misc]  # it is untyped
    def __init__(self) -> None:
        self.times_s: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        self.times_s.append(time.perf_counter())

    def end(self) -> None:
        pass


def _prompt(vocab_size: int) -> list[int]:
    generator = torch.Generator().manual_seed(7)
    tokens: list[int] = torch.randint(1, vocab_size, (CONTEXT,), generator=generator).tolist()
    return tokens


def measure_target(folder: Path, num_threads: int, num_rounds: int) -> dict[str, Any]:
    """Plain decoding and prefill beside Hugging Face, and passes of 1 to 16 rows beside each other."""
    torch.set_num_threads(num_threads)
    theirs, ours = HuggingFaceRun(folder), EngineRun(folder, num_threads=num_threads, compiled=True)
    layered = EngineRun(folder, num_threads=num_threads, compiled=False)
    floor_s = ours.num_bytes() / memory_bytes_per_s()
    decode = interleaved(
        {
            "transformers": lambda: theirs.decode_s(16),
            "compiled": lambda: ours.decode_s(16),
            "layer by layer": lambda: layered.decode_s(16),
        },
        num_rounds=num_rounds,
    )
    # Pass by pass in turn: memory changes its speed within a second.
    ours.restart()
    passes = interleaved({str(n): _pass(ours, n) for n in ROW_COUNTS}, num_rounds=4 * num_rounds)
    theirs.restart()
    their_passes = interleaved({str(n): _pass(theirs, n) for n in ROW_COUNTS}, num_rounds=num_rounds)
    prefill = interleaved({"transformers": theirs.prefill_s, "compiled": ours.prefill_s}, num_rounds=num_rounds // 2)
    return {
        "floor_ms": 1e3 * floor_s,
        "decode_ms": _medians_ms(decode),
        "decode_speed_up": {
            name: ratio(decode["transformers"], decode[name]) for name in decode if name != "transformers"
        },
        "share_of_floor": floor_s / statistics.median(decode["compiled"]),
        "pass_ms": _medians_ms(passes),
        "pass_cost_over_one_row": {n: ratio(times, passes["1"]) for n, times in passes.items() if n != "1"},
        "transformers_pass_ms": _medians_ms(their_passes),
        "prefill_ms": _medians_ms(prefill),
        "prefill_speed_up": ratio(prefill["transformers"], prefill["compiled"]),
    }


def measure_drafter(folder: Path, num_rounds: int) -> dict[str, Any]:
    """One row on one thread: Hugging Face, layer by layer, compiled, and compiled with noise."""
    torch.set_num_threads(1)
    theirs = HuggingFaceRun(folder)
    runs = {
        "layer by layer": EngineRun(folder, num_threads=1, compiled=False),
        "compiled": EngineRun(folder, num_threads=1, compiled=True),
        "compiled, temperature 1": EngineRun(folder, num_threads=1, compiled=True, temperature=1.0),
    }
    variants: dict[str, Callable[[], float]] = {"transformers": lambda: theirs.decode_s(48)}
    variants.update({name: _decode(run, 192) for name, run in runs.items()})
    decode = interleaved(variants, num_rounds=num_rounds)
    return {
        "decode_ms": _medians_ms(decode),
        "best_ms": {name: 1e3 * min(times) for name, times in decode.items()},
        "decode_speed_up": {name: ratio(decode["transformers"], decode[name]) for name in runs},
    }


def _pass(run: EngineRun | HuggingFaceRun, num_rows: int) -> Callable[[], float]:
    return lambda: run.pass_s(num_rows)


def _decode(run: EngineRun, num_tokens: int) -> Callable[[], float]:
    return lambda: run.decode_s(num_tokens)


def _medians_ms(times: dict[str, list[float]]) -> dict[str, float]:
    return {name: 1e3 * statistics.median(values) for name, values in times.items()}


def _print_report(report: dict[str, Any]) -> None:
    target, drafter = report["target"], report["drafter"]
    print(f"{report['machine']}\n")
    print(f"Target, 291 M parameters, {report['num_threads']} threads, context {CONTEXT} (medians, quartiles)\n")
    print("| plain decoding | ms a token | times transformers |\n|---|---|---|")
    for name, value in target["decode_ms"].items():
        print(f"| {name} | {value:.2f} | {target['decode_speed_up'].get(name, '1')} |")
    print(
        f"\nReading the weights once takes {target['floor_ms']:.2f} ms: {target['share_of_floor']:.0%} of that speed.\n"
    )
    print("| rows in a pass | ms | times one row | transformers ms |\n|---|---|---|---|")
    for name, value in target["pass_ms"].items():
        theirs = target["transformers_pass_ms"][name]
        print(f"| {name} | {value:.2f} | {target['pass_cost_over_one_row'].get(name, '1')} | {theirs:.2f} |")
    prefill = target["prefill_ms"]
    print(
        f"\nPrompt of {CONTEXT} tokens: {prefill['compiled']:.0f} ms, transformers {prefill['transformers']:.0f} ms, "
        f"ratio {target['prefill_speed_up']}.\n"
    )
    print(f"Drafter, 3.2 M parameters, 1 thread, 1 row, context {CONTEXT}\n")
    print("| | ms a token | best | times transformers |\n|---|---|---|---|")
    for name, value in drafter["decode_ms"].items():
        print(
            f"| {name} | {value:.3f} | {drafter['best_ms'][name]:.3f} | {drafter['decode_speed_up'].get(name, '1')} |"
        )


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of the target (default 2)")
    parser.add_argument("--rounds", type=int, default=9, help="alternations to take medians over (default 9)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all figures here")
    options = parser.parse_args()
    if options.rounds < 4:
        parser.error(f"--rounds is {options.rounds}; 4 or more have quartiles, for prompts are read in half of them")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        target = write_random_model(Path(folder) / "target", "target-291m")
        drafter = write_random_model(Path(folder) / "drafter", "drafter-3m")
        report = {
            "machine": describe_machine(),
            "num_threads": options.threads,
            "target": measure_target(target, options.threads, options.rounds),
            "drafter": measure_drafter(drafter, options.rounds),
        }
    _print_report(report)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
