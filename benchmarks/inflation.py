"""Whether inflated models answer as the small one, and cost what their size says.

See `python -m benchmarks.inflation --help`.

    python -m benchmarks.inflation --model models/demo/target --params 300M --prompts models/test_prompts.jsonl

Each size is made in a temporary folder. In float32 the greedy tokens of all prompts must be those of the small one. In
bfloat16 logits differ by rounding; their largest difference is told beside that of the small model's own bfloat16.
What one row costs is told as time and as bytes of weights read in a second, beside what memory can give: a model
whose cost were a sham would seem to read faster than memory.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.engine_model import LastHidden
from benchmarks.generation import Prompt, generate, opened_prompts, read_prompts
from benchmarks.timing import describe_machine, interleaved, memory_bytes_per_s, ratio
from contracts.config import EngineConfig
from contracts.errors import SpecfleetError
from contracts.types import ROOT, SamplingParams, SequenceId, StopParams
from engine.load import LoadedEngine
from engine.local_group import local_engine
from engine.model import head_logits
from engine.work import Verify
from models.inflate import inflate, parse_size

__all__ = ["main"]

_NUM_ROUNDS = 15
_LOGIT_PROMPTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one model did."""

    name: str
    num_parameters: int
    num_same: int
    logit_difference: float


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where an inflated model answered otherwise, 2 for a request that can never work."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inflation", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="checkpoint folder of the small model")
    parser.add_argument("--params", action="append", required=True, metavar="SIZE", help="can be given several times")
    parser.add_argument("--prompts", type=Path, required=True, metavar="FILE.jsonl")
    parser.add_argument("--num-prompts", type=int, default=50, metavar="N")
    parser.add_argument("--max-tokens", type=int, default=24, metavar="N")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N")
    options = parser.parse_args(arguments)
    try:
        return _compare(options)
    except SpecfleetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _compare(options: argparse.Namespace) -> int:
    prompts = read_prompts(options.prompts)[: options.num_prompts]
    print(
        f"{describe_machine()}; {options.threads} threads, {len(prompts)} prompts, {options.max_tokens} tokens each\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        folders = {"small": options.model}
        for size in options.params:
            folders[size] = Path(folder) / size
            inflate(options.model, folders[size], num_parameters=parse_size(size))
        found = _answers(folders, prompts, options)
        _print_answers(found, len(prompts))
        _time_rows(folders, options.threads)
    return 1 if any(each.num_same < len(prompts) for each in found) else 0


def _answers(folders: dict[str, Path], prompts: list[Prompt], options: argparse.Namespace) -> list[Found]:
    found: list[Found] = []
    truth: list[list[int]] = []
    logits: torch.Tensor | None = None
    for name, folder in folders.items():
        with _engine(folder, "float32", options.threads) as loaded:
            stop = StopParams(max_tokens=options.max_tokens, ignore_eos=True)
            answers, _ = generate(loaded, prompts, SamplingParams(), stop, num_together=len(prompts))
            tokens = [answer.token_ids for answer in answers]
            exact = _logits(loaded, prompts) if logits is None else logits
        truth, logits = truth or tokens, exact
        with _engine(folder, "bfloat16", options.threads) as loaded:
            difference = float((_logits(loaded, prompts) - exact).abs().max())
            num_parameters = loaded.engine.identity.num_parameters
        num_same = sum(answer == right for answer, right in zip(tokens, truth, strict=True))
        found.append(Found(name=name, num_parameters=num_parameters, num_same=num_same, logit_difference=difference))
    return found


def _logits(loaded: LoadedEngine, prompts: Sequence[Prompt]) -> torch.Tensor:
    """What the model thinks at the end of the first prompts: [prompts, vocabulary] float32."""
    rows: list[torch.Tensor] = []
    engine, name = loaded.engine, SequenceId("logits")
    for _, tokens in opened_prompts(loaded, prompts[:_LOGIT_PROMPTS], StopParams(max_tokens=1)):
        hook = LastHidden(len(engine.executor.weights.layers))
        engine.open(name, tokens, SamplingParams())
        engine.step([Verify(sequence=name)], hook=hook)
        engine.close(name)
        assert hook.hidden is not None, "the last layer was looked at"
        rows.append(head_logits(engine.executor.weights, hook.hidden[ROOT:], torch.tensor([0]))[0].clone())
    return torch.stack(rows)


def _print_answers(found: Sequence[Found], num_prompts: int) -> None:
    print("| model | parameters | same greedy answers, float32 | largest logit difference, bfloat16 |")
    print("|---|---:|---:|---:|")
    for each in found:
        millions = each.num_parameters / 1e6
        print(f"| {each.name} | {millions:.1f} M | {each.num_same} of {num_prompts} | {each.logit_difference:.3f} |")


def _time_rows(folders: dict[str, Path], threads: int) -> None:
    """One row of each model in turn, bfloat16."""
    steps: dict[str, _OneRow] = {}
    with _engines(folders, threads) as engines:
        for name, loaded in engines.items():
            steps[name] = _OneRow(loaded)
        times = interleaved({name: step.run for name, step in steps.items()}, num_rounds=_NUM_ROUNDS)
        memory = memory_bytes_per_s()
        print(
            "\n| model | MB read | ms a row | times small | GB/s | memory gives GB/s |\n|---|---:|---:|---:|---:|---:|"
        )
        for name, loaded in engines.items():
            num_bytes, median_s = loaded.engine.executor.weights.num_bytes, sorted(times[name])[_NUM_ROUNDS // 2]
            print(
                f"| {name} | {num_bytes / 1e6:.0f} | {1e3 * median_s:.2f} | {ratio(times[name], times['small'])} | "
                f"{num_bytes / median_s / 1e9:.1f} | {memory / 1e9:.1f} |"
            )


class _OneRow:
    def __init__(self, loaded: LoadedEngine) -> None:
        self._engine, self._name = loaded.engine, SequenceId("row")
        self._engine.open(self._name, [5] * 32, SamplingParams())
        self._engine.step([Verify(sequence=self._name)])

    def run(self) -> float:
        began_s = time.perf_counter()
        self._engine.step([Verify(sequence=self._name)])
        return time.perf_counter() - began_s


@contextmanager
def _engines(folders: dict[str, Path], threads: int) -> Iterator[dict[str, LoadedEngine]]:
    if not folders:
        yield {}
        return
    (name, folder), *rest = folders.items()
    with _engine(folder, "bfloat16", threads) as loaded, _engines(dict(rest), threads) as others:
        yield {name: loaded, **others}


@contextmanager
def _engine(folder: Path, dtype: str, threads: int) -> Iterator[LoadedEngine]:
    config = EngineConfig.model_validate(
        {"model": str(folder), "dtype": dtype, "device": "cpu", "num_threads": threads, "kv_cache_bytes": "2GiB"}
    )
    with local_engine(config) as loaded:
        yield loaded


if __name__ == "__main__":
    sys.exit(main())
