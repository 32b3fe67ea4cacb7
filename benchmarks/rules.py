"""Verification rules side by side on the same drafts: `python -m benchmarks.rules --help`.

    python -m benchmarks.rules --paths 3 --depth 4
    python -m benchmarks.rules --target DIR --drafter DIR --prompts FILE.jsonl --temperature 0.7 --temperature 1

Prints tokens per round. Without models there is a column for each of some families of synthetic targets and drafters,
from like to unlike; with models one for each temperature, over the same places in the target's own answers. Rules of
one path draft --depth tokens a round, the others --paths times as many; the bound holds for independent paths, not for
the distinct draws of rsd and of rules named *_distinct.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.drafters import load_drafter_engine
from benchmarks.generation import read_prompts
from benchmarks.rules_on_models import contexts_of, means_on_models
from contracts.config import EngineConfig
from contracts.errors import InvalidArgument, SpecfleetError
from engine.load import load_engine
from speculation.rules.compare import (
    Shape,
    dirichlet_models,
    mean_tokens,
    shared_noise_comb,
    temperature_models,
    upper_bound,
)
from speculation.rules.draft import Model
from speculation.rules.optimal_transport import MAX_VOCAB_OF_SETS
from speculation.rules.registry import RULES, NamedRule, rule_named

__all__ = ["main"]

_MAX_PREFIXES = 20_000  # what is computed exactly lists all texts of a round
_ROUNDS, _ROUNDS_OF_CONTEXT = 3000, 20


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 when the table was printed, 2 for a request that can never work."""
    options = _parser().parse_args(arguments)
    try:
        has_models = _has_models(options)
        columns = _of_models(options) if has_models else _of_families(options)
    except SpecfleetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    what = f"{options.contexts} places" if has_models else f"vocabulary {options.vocab}"
    print(f"tokens per round; {options.paths} paths of {options.depth} tokens, {what}")
    print(f"{'':28}" + "".join(f"{name:>14}" for name in columns))
    for name in next(iter(columns.values())):
        print(f"{name:28}" + "".join(f"{column[name]:14.3f}" for column in columns.values()))
    return 0


def _of_families(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """By family, by rule."""
    rules, shape = _rules(options, options.vocab), Shape(num_paths=options.paths, depth=options.depth)
    columns = {}
    for name, (target, drafter) in _families(options.vocab, options.seed).items():
        rounds = options.rounds or _ROUNDS
        means = mean_tokens(target, drafter, shape, num_rounds=rounds, seed=options.seed, rules=rules)
        if options.vocab**options.depth <= _MAX_PREFIXES:
            means["shared_noise, runners-up"] = shared_noise_comb(target, drafter, shape)
            means["bound for paths"] = upper_bound(target, drafter, shape)
        columns[name] = means
    return columns


def _of_models(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """By temperature, by rule."""
    shape, columns = Shape(num_paths=options.paths, depth=options.depth), {}
    prompts = read_prompts(options.prompts)
    target = load_engine(EngineConfig(model=options.target, dtype=options.dtype, num_threads=options.threads))
    drafter = load_drafter_engine(options.drafter, target, options.threads)
    rules = _rules(options, target.engine.limits.num_real_tokens)
    for temperature in options.temperature or [1.0]:
        contexts = contexts_of(
            target,
            prompts,
            num_contexts=options.contexts,
            temperature=temperature,
            seed=options.seed,
            depth=options.depth,
        )
        columns[f"T={temperature:g}"] = means_on_models(
            target,
            drafter,
            contexts,
            rules,
            shape,
            temperature=temperature,
            num_rounds=options.rounds or _ROUNDS_OF_CONTEXT,
            seed=options.seed,
        )
    return columns


def _has_models(options: argparse.Namespace) -> bool:
    given = [options.target is not None, options.drafter is not None, options.prompts is not None]
    if any(given) and not all(given):
        raise InvalidArgument("--target, --drafter and --prompts go together: two checkpoint folders and a file")
    return all(given)


def _rules(options: argparse.Namespace, vocab_size: int) -> list[NamedRule]:
    return [rule_named(name) for name in options.rule or _possible(vocab_size)]


def _possible(vocab_size: int) -> list[str]:
    """The rules that can work with such a vocabulary."""
    return [name for name in RULES if vocab_size <= MAX_VOCAB_OF_SETS or not name.startswith("optimal_transport")]


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number from 1")
    return int(text)


def _families(vocab_size: int, seed: int) -> dict[str, tuple[Model, Model]]:
    return {
        "mixed 0.8": dirichlet_models(vocab_size, concentration=0.5, likeness=0.8, seed=seed),
        "mixed 0.4": dirichlet_models(vocab_size, concentration=0.5, likeness=0.4, seed=seed),
        "cold T=0.4": temperature_models(vocab_size, temperature=0.4, error=1.0, seed=seed),
        "warm T=1": temperature_models(vocab_size, temperature=1.0, error=1.0, seed=seed),
        "hot T=2": temperature_models(vocab_size, temperature=2.0, error=1.0, seed=seed),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rules", description="Compare verification rules on the same drafts."
    )
    parser.add_argument("--rule", action="append", metavar="NAME", help=f"one of {', '.join(RULES)}; repeatable")
    parser.add_argument("--paths", type=_positive, default=3, metavar="K", help="paths or distinct draws (default 3)")
    parser.add_argument("--depth", type=_positive, default=3, metavar="N", help="tokens of a path (default 3)")
    parser.add_argument("--vocab", type=_positive, default=8, metavar="N", help="of synthetic models (default 8)")
    parser.add_argument(
        "--rounds",
        type=_positive,
        metavar="N",
        help=f"sampled rounds of each rule (default {_ROUNDS}; with models {_ROUNDS_OF_CONTEXT} at each place)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    models = parser.add_argument_group("real models")
    models.add_argument("--target", metavar="DIR", help="checkpoint folder of the target")
    models.add_argument("--drafter", metavar="DIR", help="checkpoint folder of the drafter")
    models.add_argument("--prompts", type=Path, metavar="FILE.jsonl", help='records {"id", "prompt"}')
    models.add_argument("--contexts", type=_positive, default=16, metavar="N", help="places in answers (default 16)")
    models.add_argument("--temperature", action="append", type=float, metavar="T", help="repeatable (default 1)")
    models.add_argument("--threads", type=_positive, default=os.cpu_count() or 1, metavar="N", help="CPU threads")
    models.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    return parser


if __name__ == "__main__":
    sys.exit(main())
