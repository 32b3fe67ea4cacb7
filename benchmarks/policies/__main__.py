"""Prints how routing, budget and fusion do on a trace: `python -m benchmarks.policies --trace FILE.npz`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from statistics import fmean

from benchmarks.policies.fusing import Who, per_round, routed
from benchmarks.policies.rounds import by_budget, by_size, chains_per_s, taught, tokens_per_s
from benchmarks.policies.routing import RoutedFleet, hits
from benchmarks.policies.stream import best_of_domains, cost_of, mixed
from benchmarks.traces.trace import Trace, read_trace
from contracts.errors import SpecfleetError
from contracts.types import DrafterId

__all__ = ["main"]

_TRACE = Path(__file__).parents[1] / "data" / "demo.npz"
_LOADS = (1, 2, 4, 8, 16, 32, 64)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 when all tables are printed, 2 for a request that can never work."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.policies", description=__doc__.split(":")[0])
    parser.add_argument("--trace", type=Path, default=_TRACE, metavar="FILE.npz", help="(the committed demo trace)")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="one that was recorded (0)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of the order of requests (1)")
    parser.add_argument("--rounds", type=int, default=3000, metavar="N", help="of a sequence, for each budget (3000)")
    parser.add_argument("--only", choices=["routing", "budget", "fusion"], help="one of the tables")
    options = parser.parse_args(arguments)
    try:
        trace = read_trace(options.trace)
    except SpecfleetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.only in (None, "routing"):
        _print_routing(trace, options)
    if options.only in (None, "budget"):
        _print_budget(trace, options)
    if options.only in (None, "fusion"):
        _print_fusion(trace, options)
    return 0


def _print_routing(trace: Trace, options: argparse.Namespace) -> None:
    requests = mixed(trace, options.temperature, seed=options.seed)
    best = best_of_domains(trace, requests)
    print("\nRequests on the best drafter of their domain, by how many came before")
    ends = list(range(50, len(requests), 50))
    print(f"| followers | {' | '.join(f'{end - 50} to {end}' for end in ends)} |")
    print(f"|---{'|---:' * len(ends)}|")
    for num_followers in (None, len(trace.drafters), 2, 1, 0):
        fleet = RoutedFleet(trace, num_followers=num_followers, seed=options.seed)
        found = hits(fleet, requests, best)
        if num_followers is None:
            followed = [f"{fmean(fleet.num_followed[end - 50 : end]):.1f}" for end in ends]
            print(f"| (how many could be the best) | {' | '.join(followed)} |")
        shares = [f"{fmean(found[end - 50 : end]):.0%}" for end in ends]
        name = "those that could be the best" if num_followers is None else num_followers
        print(f"| {name} | {' | '.join(shares)} |", flush=True)


def _print_budget(trace: Trace, options: argparse.Namespace) -> None:
    requests, cost = mixed(trace, options.temperature, seed=options.seed), cost_of(trace)
    best = best_of_domains(trace, requests)
    half = len(requests) // 2
    first, rest = requests[:half], requests[half:]
    knowing = {worthless: taught(trace, first, best, worthless=worthless) for worthless in (False, True)}
    print(
        "\nTokens a second of target time, by sequences at a time; calibration is taught by the first half of requests"
    )
    print("| load | budget | best chain | best tree | plain | budget over best | worthless drafts over plain |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for load in _LOADS:
        num_rounds = max(options.rounds // load, 10)

        def rate(size: int | None, *, worthless: bool = False, load: int = load, num_rounds: int = num_rounds) -> float:
            policy = by_budget() if size is None else by_size(size)
            roster = deepcopy(knowing[worthless])
            return tokens_per_s(
                trace, rest, best, roster, policy, cost, load=load, num_rounds=num_rounds, worthless=worthless
            )

        chains = {n: chains_per_s(trace, rest, best, n, cost, load=load, num_rounds=num_rounds) for n in range(9)}
        trees = {size: rate(size) for size in (1, 2, 3, 4, 6, 8)}
        budget, bad = rate(None), rate(None, worthless=True)
        chain, tree = max(chains, key=lambda n: chains[n]), max(trees, key=lambda n: trees[n])
        print(
            f"| {load} | {budget:.1f} | {chains[chain]:.1f} (length {chain}) | {trees[tree]:.1f} ({tree} nodes) | "
            f"{chains[0]:.1f} | {budget / max(chains[chain], trees[tree]):.3f} | {bad / chains[0]:.3f} |",
            flush=True,
        )


def _print_fusion(trace: Trace, options: argparse.Namespace) -> None:
    requests = mixed(trace, options.temperature, seed=options.seed)
    num_taught = len(requests) // 3
    print(f"\nTokens a round with exactly so many nodes checked; {num_taught} requests teach, the rest count")
    print("| drafters | 4 nodes | 8 nodes |\n|---|---:|---:|")
    rows: list[tuple[str, Who | Sequence[DrafterId]]] = [(drafter, (drafter,)) for drafter in trace.drafters]
    rows += [(f"{number} routed, fused", routed(number)) for number in (2, 3)]
    rows += [("all fused", trace.drafters), ("1 routed", routed(1))]
    for label, who in rows:
        counts = [per_round(trace, requests, who, num_nodes=n, num_taught=num_taught) for n in (4, 8)]
        print(f"| {label} | {' | '.join(f'{count:.3f}' for count in counts)} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
