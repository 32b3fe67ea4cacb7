"""Generates text for a file of prompts on this machine alone: `python -m benchmarks.local --help`.

    python -m benchmarks.local --target DIR --prompts FILE.jsonl --max-tokens 64
    python -m benchmarks.local --target DIR --prompts FILE.jsonl --mode fused --drafter DIR2 --drafter prompt_lookup

Prompts are records {"id", "prompt"}, one a line. With --json the results go to a file:
{"results": [{"id", "token_ids", "text", "num_rounds", "elapsed_s"}], "steps": {...}}, and with drafters also
"drafters" and "pruning". Whatever the drafters, mode, pruning and batch, the tokens are those of --mode off; only rules
of sampled drafts (--rule) draw others, of the same distribution.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.by_rule import generate_by_rule
from benchmarks.drafters import load_drafter_engine, load_drafters
from benchmarks.fleet import LocalFleet, Speculate
from benchmarks.generation import Generated, StepStatistics, generate, read_prompts
from contracts.config import EngineConfig
from contracts.errors import InvalidArgument, SpecfleetError
from contracts.types import SamplingParams, StopParams
from engine.load import LoadedEngine
from engine.local_group import local_engine
from speculation.cost import CostTable, probe_plan
from speculation.fusion import FusionKind
from speculation.rules.compare import Shape
from speculation.rules.registry import RULES, rule_named
from workers.drafters.registry import KINDS
from workers.probe import probe_steps
from workers.pruning import pruner_from

__all__ = ["main"]

SHARED_NOISE = "shared_noise"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 when all prompts were answered, 2 for a request that can never work."""
    options = _parser().parse_args(arguments)
    try:
        _check(options)
        prompts = read_prompts(options.prompts)
        sampling = SamplingParams(temperature=options.temperature, seed=options.seed)
        stop = StopParams(max_tokens=options.max_tokens, ignore_eos=options.ignore_eos)
        config = EngineConfig(
            model=options.target,
            dtype=options.dtype,
            num_threads=_threads(options),
            tensor_parallel=options.tp,
        )
        with local_engine(config) as loaded:
            fleet = _fleet(options, loaded) if options.mode != "off" and options.rule == SHARED_NOISE else None
            started_s = time.perf_counter()
            if options.rule == SHARED_NOISE:
                results, steps = generate(loaded, prompts, sampling, stop, num_together=options.batch, fleet=fleet)
            else:
                drafter = load_drafter_engine(options.drafter[0], loaded, _threads(options))
                shape = Shape(num_paths=options.paths, depth=options.max_draft)
                rule = rule_named(options.rule)
                results, steps = generate_by_rule(loaded, drafter, rule, shape, prompts, sampling, stop)
            elapsed_s = time.perf_counter() - started_s
    except SpecfleetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json is not None:
        _write(options.json, results, steps, fleet)
    _print_summary(results, steps, elapsed_s)
    if fleet is not None:
        _print_drafters(fleet)
        _print_pruning(fleet)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.local", description="Generate for a file of prompts with one engine and no network."
    )
    parser.add_argument("--target", required=True, metavar="DIR", help="checkpoint folder or hub id of the model")
    parser.add_argument("--prompts", required=True, type=Path, metavar="FILE.jsonl", help='records {"id", "prompt"}')
    parser.add_argument(
        "--mode",
        choices=["off", "vanilla", "tree", "fused"],
        default="off",
        help="off: plain decoding (default); vanilla: one drafter's chain; tree: one drafter's tree, cut by the "
        "budget; fused: the trees of all drafters as one",
    )
    parser.add_argument(
        "--drafter",
        action="append",
        default=[],
        metavar="KIND_OR_DIR",
        help=f"checkpoint folder, or one of {', '.join(sorted(KINDS))}; can be given several times",
    )
    parser.add_argument("--max-draft", type=_positive, default=8, metavar="N", help="draft nodes a round (default 8)")
    parser.add_argument(
        "--fusion",
        choices=[kind.value for kind in FusionKind],
        default="merged",
        help="how --mode fused joins drafters",
    )
    parser.add_argument(
        "--router", action="store_true", help="choose drafters for each prompt by what they prove worth"
    )
    parser.add_argument(
        "--prune",
        action="append",
        type=_layer_and_rank,
        default=[],
        metavar="LAYER=K",
        help="after this layer (from 0), draft nodes that K or more tokens out-rank leave the pass, where looking "
        "pays; K is where learning starts; can be given several times",
    )
    parser.add_argument(
        "--rule",
        choices=list(RULES),
        default=SHARED_NOISE,
        help="how drafts are judged; all but the default draw tokens by a coin of their own (default %(default)s)",
    )
    parser.add_argument("--paths", type=_positive, default=2, metavar="N", help="paths of --rule (default 2)")
    parser.add_argument("--max-tokens", type=_positive, default=64, metavar="N", help="tokens per prompt (default 64)")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 is greedy (default)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of every prompt's noise (default 0)")
    parser.add_argument(
        "--threads", type=_positive, default=os.cpu_count() or 1, metavar="N", help="CPU threads over all ranks"
    )
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--tp", type=_positive, default=1, metavar="N", help="tensor-parallel ranks (default 1)")
    parser.add_argument("--batch", type=_positive, default=1, metavar="N", help="prompts at a time (default 1)")
    parser.add_argument("--ignore-eos", action="store_true", help="go on to --max-tokens past the model's end token")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write token ids, texts and step times here")
    return parser


def _check(options: argparse.Namespace) -> None:
    """Refuses combinations that mean nothing."""
    if options.mode == "off" and (options.drafter or options.router or options.prune or options.rule != SHARED_NOISE):
        raise InvalidArgument(
            "--drafter, --router, --prune and --rule have no meaning with --mode off; choose another mode"
        )
    if len(dict(options.prune)) < len(options.prune):
        raise InvalidArgument("--prune names a layer twice; right is one K for each")
    if options.mode != "off" and not options.drafter:
        raise InvalidArgument(f"--mode {options.mode} needs a drafter; name one with --drafter KIND_OR_DIR")
    if options.rule != SHARED_NOISE and (
        options.mode != "vanilla"
        or len(options.drafter) != 1
        or options.drafter[0] in KINDS
        or options.batch > 1
        or options.router
        or options.prune
    ):
        raise InvalidArgument(
            f"--rule {options.rule} judges samples of one model; right is --mode vanilla, one --drafter that is a "
            "checkpoint folder, --batch 1, and neither --router nor --prune"
        )


def _threads(options: argparse.Namespace) -> int:
    """Of each rank."""
    return min(max(1, int(options.threads) // int(options.tp)), os.cpu_count() or 1)


def _fleet(options: argparse.Namespace, target: LoadedEngine) -> LocalFleet:
    how = Speculate(
        mode=options.mode,
        max_draft=options.max_draft,
        routed=options.router,
        fusion=FusionKind(options.fusion),
    )
    pruner = pruner_from(target.engine, dict(options.prune))
    cost = CostTable()
    if options.mode != "vanilla" or pruner is not None:  # a chain alone is taken as it comes
        for report in probe_steps(target.engine, probe_plan(2 * options.max_draft * options.batch, 256)):
            cost.observe(report)
    drafters = load_drafters(options.drafter, target, num_threads=_threads(options))
    return LocalFleet(drafters, how, max_rows=target.engine.limits.max_batch_rows, cost=cost, pruner=pruner)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _layer_and_rank(text: str) -> tuple[int, int]:
    layer, _, rank = text.partition("=")
    if not (layer.isdigit() and rank.isdigit() and int(rank) >= 1):
        raise argparse.ArgumentTypeError(f"{text!r} is not LAYER=K, such as 3=64: a layer from 0 and a K from 1")
    return int(layer), int(rank)


def _write(path: Path, results: list[Generated], steps: StepStatistics, fleet: LocalFleet | None) -> None:
    content: dict[str, Any] = {"results": [dataclasses.asdict(r) for r in results], "steps": steps.summary()}
    if fleet is not None:
        content["drafters"] = {name: dataclasses.asdict(figures) for name, figures in fleet.figures.items()}
        content["pruning"] = _pruning(fleet)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _print_summary(results: list[Generated], steps: StepStatistics, elapsed_s: float) -> None:
    for result in results:
        print(f"--- {result.id} ({len(result.token_ids)} tokens, {result.elapsed_s:.3f} s)\n{result.text}")
    num_tokens, num_rounds = sum(len(r.token_ids) for r in results), sum(r.num_rounds for r in results)
    summary = steps.summary()
    print(
        f"\n{len(results)} prompts, {num_tokens} tokens in {elapsed_s:.2f} s: {num_tokens / elapsed_s:.1f} tokens/s, "
        f"{num_tokens / num_rounds:.2f} tokens a round, {summary['num_steps']} steps, "
        f"{1e3 * summary['elapsed_s'] / summary['num_steps']:.2f} ms a step"
    )


def _print_drafters(fleet: LocalFleet) -> None:
    width = max(len("drafter"), *(len(name) for name in fleet.figures))
    print(f"\n{'drafter':{width}}  rounds  proposed  checked  accepted  rate  a round  drafting s")
    for name, of in fleet.figures.items():
        rate = f"{of.num_accepted / of.num_checked:.2f}" if of.num_checked else "-"
        each = f"{of.num_accepted / of.num_rounds:.2f}" if of.num_rounds else "-"
        print(
            f"{name:{width}}  {of.num_rounds:6}  {of.num_proposed:8}  {of.num_checked:7}  {of.num_accepted:8}  "
            f"{rate:>4}  {each:>7}  {of.drafting_s:10.2f}"
        )


def _pruning(fleet: LocalFleet) -> dict[int, dict[str, float]]:
    """By layer: K as it is now, and the rates of the recent past."""
    if fleet.pruner is None:
        return {}
    policy = fleet.pruner.policy
    return {
        layer: {"max_above": policy.max_above(layer), **dataclasses.asdict(policy.rates(layer))}
        for layer in policy.layers
    }


def _print_pruning(fleet: LocalFleet) -> None:
    for layer, of in _pruning(fleet).items():
        print(
            f"after layer {layer}: {of['prune_rate']:.1%} of {of['num_checked']:.0f} rows pruned, "
            f"{of['misprune_rate']:.1%} of those whose fate is known wrongly; K is {of['max_above']}"
        )


if __name__ == "__main__":
    sys.exit(main())
