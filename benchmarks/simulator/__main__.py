"""A fleet that is not here, on a virtual clock: `python -m benchmarks.simulator --help`, or `specfleet simulate`.

    python -m benchmarks.simulator --groups 128 --drafters 1000 --requests 100000 --mode off --mode fleet --out DIR

Routers, schedulers, trees, routing and budgets are the service's own; workers are cost models and what drafters would
have guessed. docs/simulator.md says what is behind it and how far it was found to be right.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.simulator.hardware import DEVICES, LINKS, MODELS, hardware
from benchmarks.simulator.report import as_json, draw, table
from benchmarks.simulator.scenario import DrafterKind, Outcome, Scenario, simulate
from benchmarks.traces.acceptance import AcceptanceModel, learned
from contracts.errors import SpecfleetError
from router.modes import mode_parts

__all__ = ["DEMO", "main"]

DEMO = Path(__file__).resolve().parents[1] / "data" / "demo.npz"
_TELL_EVERY = 8  # groups


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 2 for a request that can never work."""
    options = _parser().parse_args(arguments)
    try:
        options.mode = options.mode or ["off", "fleet"]
        for mode in options.mode:
            mode_parts(mode)
        model = learned(options.trace, temperature=options.temperature)
        scenario = _scenario(options, model)
        outcomes = [_run(replace(scenario, mode=mode), model, options.processes) for mode in options.mode]
    except SpecfleetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(outcomes))
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "simulated.json").write_text(as_json(outcomes), encoding="utf-8")
        draw(outcomes, options.out / "simulated.png")
        print(f"\nwrote {options.out / 'simulated.json'} and {options.out / 'simulated.png'}")
    return 0


def _run(scenario: Scenario, model: AcceptanceModel, num_processes: int) -> Outcome:
    began_s = time.monotonic()

    def tell(num_done: int) -> None:
        if num_done % _TELL_EVERY == 0 or num_done == scenario.num_groups:
            elapsed_s = time.monotonic() - began_s
            print(
                f"{scenario.mode}: {num_done} of {scenario.num_groups} groups after {elapsed_s:.0f} s",
                file=sys.stderr,
                flush=True,
            )

    return simulate(scenario, model, num_processes=num_processes, on_group=tell)


def _scenario(options: argparse.Namespace, model: AcceptanceModel) -> Scenario:
    kind = DrafterKind(
        model=MODELS[options.drafter],
        on=hardware(options.drafter_on),
        count=options.drafters,
        voices=model.drafters,
        link=LINKS[options.link],
    )
    return Scenario(
        target=MODELS[options.target],
        on=hardware(options.on),
        drafters=(kind,) if options.drafters else (),
        num_groups=options.groups,
        num_requests=options.requests,
        num_tokens=tuple(options.tokens),
        num_prompt=options.prompt_tokens,
        rate=options.rate,
        together=options.together,
        max_draft=options.max_draft,
        max_running=options.max_running,
        temperature=options.temperature,
        seed=options.seed,
    )


def _parser() -> argparse.ArgumentParser:
    known = ", ".join(DEVICES)
    parser = argparse.ArgumentParser(
        prog="specfleet simulate",
        description="Run a fleet that is not here on a virtual clock, with the service's own routers.",
    )
    parser.add_argument("--target", default="llama-3.1-70b", choices=MODELS, metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--on", default="4xh100", metavar="HARDWARE", help=f"of a verifier group: [N x] {known}")
    parser.add_argument("--groups", type=int, default=1, metavar="N", help="verifier groups, each with a router")
    parser.add_argument("--drafter", default="llama-68m", choices=MODELS, metavar="MODEL", help="default: llama-68m")
    parser.add_argument("--drafter-on", default="rtx2080ti", metavar="HARDWARE", help="of a drafter")
    parser.add_argument("--drafters", type=int, default=8, metavar="N", help="of all groups together (default 8)")
    parser.add_argument("--link", default="datacentre", choices=LINKS, help="between drafters and routers")
    parser.add_argument("--requests", type=int, default=1000, metavar="N", help="in all (default 1000)")
    parser.add_argument(
        "--tokens", type=int, nargs="+", default=[64], metavar="N", help="of an answer; several: drawn from these"
    )
    parser.add_argument("--prompt-tokens", type=int, metavar="N", help="default: as recorded")
    load = parser.add_mutually_exclusive_group()
    load.add_argument("--rate", type=float, metavar="R", help="requests a second at the dispatcher")
    load.add_argument("--together", type=int, default=16, metavar="N", help="requests at a time in a group (16)")
    parser.add_argument("--mode", action="append", metavar="MODE", help="several: one after another (off and fleet)")
    parser.add_argument("--max-draft", type=int, default=8, metavar="N", help="draft nodes of a request in a round")
    parser.add_argument("--max-running", type=int, default=64, metavar="N", help="requests that a group runs at once")
    parser.add_argument("--temperature", type=float, default=0.0, choices=[0.0, 0.8], help="as recorded: 0 or 0.8")
    parser.add_argument("--trace", type=Path, default=DEMO, metavar="FILE.npz", help="what guessing is learned from")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, metavar="N", help="at a time")
    parser.add_argument("--seed", type=int, default=1, metavar="S")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where JSON and picture go")
    return parser


if __name__ == "__main__":
    sys.exit(main())
