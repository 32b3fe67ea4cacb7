"""What simulated scenarios came to: a table, JSON, and pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.simulator.drawing import COLOURS, figure, finish
from benchmarks.simulator.scenario import Outcome

__all__ = ["as_json", "draw", "table"]

_COLUMNS = (
    "mode",
    "tokens/s",
    "times first",
    "tokens a part",
    "first token ms",
    "latency s",
    "p95 s",
    "verifier busy",
    "drafters busy",
    "$ per million",
)


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown, a line for each. A part is one request's share of a round."""
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|---" + "|---:" * (len(_COLUMNS) - 1) + "|"]
    for outcome in outcomes:
        lines.append(
            f"| {outcome.scenario.mode} | {outcome.tokens_per_s:,.0f} | "
            f"{outcome.tokens_per_s / outcomes[0].tokens_per_s:.2f} | {outcome.tokens_per_round:.2f} | "
            f"{1e3 * outcome.median_first_token_s:.0f} | {outcome.mean_latency_s:.2f} | "
            f"{outcome.latency_quantile_s(0.95):.2f} | {outcome.verifier_busy_share:.0%} | "
            f"{outcome.drafter_busy_share:.0%} | {outcome.dollars_per_million_tokens:.2f} |"
        )
    return "\n".join(lines)


def as_json(outcomes: Sequence[Outcome]) -> str:
    """Of each: what was simulated, and what came of it."""
    return json.dumps([_plain(outcome) for outcome in outcomes], indent=2)


def _plain(outcome: Outcome) -> dict[str, Any]:
    scenario = outcome.scenario
    return {
        "mode": scenario.mode,
        "target": scenario.target.name,
        "verifier": scenario.on.name,
        "num_groups": scenario.num_groups,
        "drafters": [
            {
                "model": kind.model.name,
                "on": kind.on.name,
                "count": kind.count,
                "link": kind.link.name,
                "voices": list(kind.voices),
            }
            for kind in scenario.drafters
        ],
        "num_requests": scenario.num_requests,
        "rate": scenario.rate,
        "together": None if scenario.rate is not None else scenario.together,
        "max_draft": scenario.max_draft,
        "seed": scenario.seed,
        "num_tokens": outcome.num_tokens,
        "tokens_per_s": outcome.tokens_per_s,
        "tokens_per_part": outcome.tokens_per_round,
        "median_first_token_s": outcome.median_first_token_s,
        "mean_latency_s": outcome.mean_latency_s,
        "latency_quantiles_s": {share: outcome.latency_quantile_s(share) for share in (0.5, 0.9, 0.95, 0.99)},
        "verifier_busy_share": outcome.verifier_busy_share,
        "drafter_busy_share": outcome.drafter_busy_share,
        "dollars_per_hour": scenario.price,
        "dollars_per_million_tokens": outcome.dollars_per_million_tokens,
    }


def draw(outcomes: Sequence[Outcome], path: Path) -> None:
    """Throughput, latencies, who is busy, and how even the groups are."""
    picture, axes = figure(2, 2, title=_title(outcomes[0]))
    modes = [outcome.scenario.mode for outcome in outcomes]
    colours = [COLOURS[number % len(COLOURS)] for number in range(len(modes))]
    speed, latency, busy, even = axes
    rates = [outcome.tokens_per_s for outcome in outcomes]
    bars = speed.bar(modes, rates, color=colours)
    speed.bar_label(bars, [f"{rate / rates[0]:.2f}x" for rate in rates], padding=2)
    speed.set(title="Throughput", ylabel="tokens/s")
    for outcome, colour in zip(outcomes, colours, strict=True):
        latencies = outcome.latencies_s
        shares = [(number + 1) / len(latencies) for number in range(len(latencies))]
        latency.plot(latencies, shares, color=colour, label=outcome.scenario.mode, linewidth=2)
    latency.set(title="Latency", xlabel="seconds to the last token", ylabel="share of requests", xlim=(0, None))
    latency.legend(frameon=False)
    places = range(len(modes))
    busy.bar([place - 0.2 for place in places], [o.verifier_busy_share for o in outcomes], 0.38, label="verifiers")
    busy.bar([place + 0.2 for place in places], [o.drafter_busy_share for o in outcomes], 0.38, label="drafters")
    busy.set_xticks(list(places), modes)
    busy.set(title="Busy", ylabel="share of the time", ylim=(0, 1.15))
    busy.legend(frameon=False, ncols=2, loc="upper right")
    even.boxplot([[group.tokens_per_s for group in o.groups] for o in outcomes], tick_labels=modes, showfliers=True)
    even.set(title="Evenness: each group by itself", ylabel="tokens/s of a group", ylim=(0, None))
    finish(picture, path)


def _title(outcome: Outcome) -> str:
    of = outcome.scenario
    drafters = " and ".join(f"{kind.count:,} {kind.model.name} on {kind.on.name}" for kind in of.drafters)
    return (
        f"{of.num_requests:,} requests: {of.num_groups} groups of {of.target.name} on {of.on.name}, "
        f"{drafters or 'no drafters'}"
    )
