"""Recommends a fleet: `python -m benchmarks.simulator.plan --help`, or `specfleet plan`.

python -m benchmarks.simulator.plan --target llama-3.1-70b --on 4xh100 --drafter llama-68m@rtx2080ti
    --drafter llama-3.2-1b@l4 --price h100=2.5 --rate 20 --tokens 128 --p95 2.0 --out DIR
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.simulator.__main__ import DEMO
from benchmarks.simulator.drawing import COLOURS, figure, finish
from benchmarks.simulator.hardware import DEVICES, LINKS, MODELS, Hardware, hardware
from benchmarks.simulator.planning import Choice, Traffic, best, choices
from benchmarks.simulator.scenario import DrafterKind
from benchmarks.traces.acceptance import AcceptanceModel, learned
from contracts.errors import InvalidArgument, SpecfleetError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where no fleet is quick enough, 2 for a request that can never work."""
    options = _parser().parse_args(arguments)
    try:
        prices = dict(_price(said) for said in options.price)
        model = learned(options.trace)
        traffic = Traffic(
            rate=options.rate, num_tokens=tuple(options.tokens), num_prompt=options.prompt_tokens, p95_s=options.p95
        )
        found = choices(
            MODELS[options.target],
            _priced(hardware(options.on), prices),
            [_kind(said, prices, options.link, model) for said in options.drafter or ["llama-68m@rtx2080ti"]],
            options.counts,
            traffic,
            model,
            num_requests=options.requests,
            on_choice=lambda choice: print(f"looked at {choice.name}", file=sys.stderr, flush=True),
        )
    except SpecfleetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    chosen = best(found)
    print(_table(found, chosen, traffic))
    print(f"\n{_advice(chosen, found[0], traffic)}\n")
    print(
        f"Every kind of drafter guesses as those of {options.trace.name} do, whatever its size; record your own models "
        "with python -m benchmarks.record_traces and name the file with --trace."
    )
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        plain = [_plain(choice, traffic, is_chosen=choice is chosen) for choice in found]
        (options.out / "plan.json").write_text(json.dumps(plain, indent=2), encoding="utf-8")
        _draw(found, chosen, traffic, options.out / "plan.png")
    return 0 if chosen.is_quick_enough else 1


def _price(said: str) -> tuple[str, float]:
    name, _, dollars = said.partition("=")
    try:
        price = float(dollars)
    except ValueError:
        price = -1.0
    if name not in DEVICES or not price >= 0.0:
        raise InvalidArgument(f"price is {said!r}; right is DEVICE=DOLLARS an hour, devices are {', '.join(DEVICES)}")
    return name, price


def _priced(on: Hardware, prices: dict[str, float]) -> Hardware:
    return replace(on, device=replace(on.device, price=prices.get(on.device.name, on.device.price)))


def _kind(said: str, prices: dict[str, float], link: str, model: AcceptanceModel) -> DrafterKind:
    name, _, on = said.partition("@")
    if name not in MODELS:
        raise InvalidArgument(f"drafter is {said!r}; right is MODEL@HARDWARE, models are {', '.join(MODELS)}")
    on_hardware = _priced(hardware(on), prices)
    return DrafterKind(model=MODELS[name], on=on_hardware, count=1, voices=model.drafters, link=LINKS[link])


def _table(found: Sequence[Choice], chosen: Choice, traffic: Traffic) -> str:
    lines = [
        "| drafters of a group | groups | $ an hour | $ per million tokens | first token ms | latency s | p95 s | |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for choice in found:
        note = "**recommended**" if choice is chosen else "" if choice.is_quick_enough else "too slow"
        lines.append(
            f"| {choice.name} | {choice.num_groups} | {choice.dollars_per_hour:.2f} | "
            f"{choice.dollars_per_million(traffic):.2f} | {1e3 * choice.group.median_first_token_s:.0f} | "
            f"{choice.group.mean_latency_s:.2f} | {choice.group.latency_quantile_s(0.95):.2f} | {note} |"
        )
    return "\n".join(lines)


def _advice(chosen: Choice, without: Choice, traffic: Traffic) -> str:
    if not chosen.is_quick_enough:
        return f"No fleet answers 95 of 100 requests within {traffic.p95_s:g} s; the quickest is {chosen.name}."
    of = chosen.group.scenario
    return (
        f"Take {chosen.num_groups} x {of.target.name} on {of.on.name}, each with {chosen.name}: "
        f"${chosen.dollars_per_hour:.2f} an hour for {traffic.tokens_per_s:.0f} tokens/s, p95 "
        f"{chosen.group.latency_quantile_s(0.95):.2f} s. Without drafters: ${without.dollars_per_hour:.2f}, p95 "
        f"{without.group.latency_quantile_s(0.95):.2f} s."
    )


def _plain(choice: Choice, traffic: Traffic, *, is_chosen: bool) -> dict[str, object]:
    return {
        "drafters": choice.name,
        "drafters_per_group": choice.drafters_per_group,
        "num_groups": choice.num_groups,
        "dollars_per_hour": choice.dollars_per_hour,
        "dollars_per_million_tokens": choice.dollars_per_million(traffic),
        "median_first_token_s": choice.group.median_first_token_s,
        "mean_latency_s": choice.group.mean_latency_s,
        "p95_latency_s": choice.group.latency_quantile_s(0.95),
        "is_quick_enough": choice.is_quick_enough,
        "is_recommended": is_chosen,
    }


def _draw(found: Sequence[Choice], chosen: Choice, traffic: Traffic, path: Path) -> None:
    of = chosen.group.scenario
    title = f"{of.target.name} on {of.on.name}: {traffic.rate:g} requests/s, {traffic.tokens_per_s:.0f} tokens/s"
    picture, (trade, number) = figure(1, 2, title=title)
    kinds = list(dict.fromkeys(_kind_name(choice) for choice in found))
    for kind, colour in zip(kinds, COLOURS, strict=False):
        same = [choice for choice in found if _kind_name(choice) == kind]
        latencies = [choice.group.latency_quantile_s(0.95) for choice in same]
        prices = [choice.dollars_per_million(traffic) for choice in same]
        trade.plot(latencies, prices, "o-", color=colour, label=kind, linewidth=1, markersize=7)
        for choice, x, y in zip(same, latencies, prices, strict=True):
            trade.annotate(f" {choice.drafters_per_group}", (x, y), fontsize=8)
        number.plot([choice.drafters_per_group for choice in same], prices, "o-", color=colour, label=kind)
    at = chosen.group.latency_quantile_s(0.95), chosen.dollars_per_million(traffic)
    trade.plot(*at, "*", color="#c8553d", markersize=20, zorder=0, label="recommended")
    if traffic.p95_s is not None:
        trade.axvline(traffic.p95_s, color="#999999", linestyle="--", linewidth=1)
    trade.set(title="Price and latency (drafters of a group)", xlabel="p95 latency, s", ylabel="$ per million tokens")
    number.set(title="How many drafters", xlabel="drafters of a group", ylabel="$ per million tokens", ylim=(0, None))
    trade.legend(frameon=False)
    number.legend(frameon=False)
    finish(picture, path)


def _kind_name(choice: Choice) -> str:
    return choice.name if choice.kind is None else f"{choice.kind.model.name} on {choice.kind.on.name}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="specfleet plan", description="Recommend how many drafters of which kind to put beside each verifier."
    )
    parser.add_argument("--target", default="llama-3.1-70b", choices=MODELS, metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--on", default="4xh100", metavar="HARDWARE", help="of a verifier, such as 4xh100")
    parser.add_argument("--drafter", action="append", metavar="MODEL@HARDWARE", help="to choose from; several times")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4, 8], metavar="N", help="drafters of a group")
    parser.add_argument("--link", default="datacentre", choices=LINKS, help="between drafters and routers")
    parser.add_argument("--price", action="append", default=[], metavar="DEVICE=DOLLARS", help="an hour, of one")
    parser.add_argument("--rate", type=float, required=True, metavar="R", help="requests a second")
    parser.add_argument("--tokens", type=int, nargs="+", default=[128], metavar="N", help="of an answer")
    parser.add_argument("--prompt-tokens", type=int, metavar="N", help="default: as recorded")
    parser.add_argument("--p95", type=float, metavar="S", help="seconds within which 95 of 100 answers are complete")
    parser.add_argument("--requests", type=int, default=200, metavar="N", help="of the traffic, for each choice (200)")
    parser.add_argument("--trace", type=Path, default=DEMO, metavar="FILE.npz", help="what guessing is learned from")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where JSON and picture go")
    return parser


if __name__ == "__main__":
    sys.exit(main())
