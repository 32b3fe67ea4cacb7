"""Verification rules side by side on the same synthetic drafts: `python -m benchmarks.rules --help`.

    python -m benchmarks.rules --paths 3 --depth 4

Prints tokens per round for families of targets and drafters from like to unlike. Rules of one path draft --depth tokens
a round, the others --paths times as many; the bound holds for independent paths, not for the distinct draws of rsd and
of rules named *_distinct.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from contracts.errors import SpecfleetError
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
from speculation.rules.registry import RULES, rule_named

__all__ = ["main"]

_MAX_PREFIXES = 20_000  # what is computed exactly lists all texts of a round


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 when the table was printed, 2 for a request that can never work."""
    options = _parser().parse_args(arguments)
    try:
        rules = [rule_named(name) for name in options.rule or _possible(options.vocab)]
        shape = Shape(num_paths=options.paths, depth=options.depth)
        families = _families(options.vocab, options.seed)
        columns = []
        for target, drafter in families.values():
            means = mean_tokens(target, drafter, shape, num_rounds=options.rounds, seed=options.seed, rules=rules)
            if options.vocab**options.depth <= _MAX_PREFIXES:
                means["shared_noise, runners-up"] = shared_noise_comb(target, drafter, shape)
                means["bound for paths"] = upper_bound(target, drafter, shape)
            columns.append(means)
    except SpecfleetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"tokens per round; {options.paths} paths of {options.depth} tokens, vocabulary {options.vocab}")
    print(f"{'':28}" + "".join(f"{name:>14}" for name in families))
    for name in columns[0]:
        print(f"{name:28}" + "".join(f"{column[name]:14.3f}" for column in columns))
    return 0


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
        prog="python -m benchmarks.rules", description="Compare verification rules on the same synthetic drafts."
    )
    parser.add_argument("--rule", action="append", metavar="NAME", help=f"one of {', '.join(RULES)}; repeatable")
    parser.add_argument("--paths", type=_positive, default=3, metavar="K", help="paths or distinct draws (default 3)")
    parser.add_argument("--depth", type=_positive, default=3, metavar="N", help="tokens of a path (default 3)")
    parser.add_argument("--vocab", type=_positive, default=8, metavar="N", help="size of the vocabulary (default 8)")
    parser.add_argument(
        "--rounds", type=_positive, default=3000, metavar="N", help="sampled rounds of each rule (default 3000)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    return parser


if __name__ == "__main__":
    sys.exit(main())
