"""A run's ratios beside those of an earlier one: which have dropped by more than both runs' noise."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.peers.estimate import Estimate, ratio
from benchmarks.peers.figures import ASSISTED, OFF, PLAIN
from benchmarks.peers.turns import Turn
from contracts.errors import InvalidArgument

__all__ = ["ALTERNATIONS", "dropped", "guarded", "read_baseline", "write_baseline"]

ALTERNATIONS = 9
"""At least: of five, 95 % of the medians of resampled ones lie between the slowest and the quickest, and two such
intervals meet even where a third is lost."""
_WIDEST = 1 / 3  # of an interval, in parts of its median: two that wide hide a loss of about two sevenths

_GUARDED = (
    (OFF, PLAIN),
    ("fleet", PLAIN),
    ("fleet", ASSISTED),
    ("vanilla", OFF),
    ("pearl", OFF),
    ("fleet", OFF),
)
_ROUTER = f"router rounds of fleet in the time of one token of {PLAIN}"


def guarded(turns: Sequence[Turn]) -> dict[str, Estimate]:
    """All ratios are better when they are larger. The time that the router takes for a round is told beside a time that
    no change of ours can move, so that it means the same on a faster machine. Refused where they are too uncertain."""
    of = {peer: [turn for turn in turns if turn.peer == peer] for peer in {turn.peer for turn in turns}}
    if missing := {peer for pair in _GUARDED for peer in pair} - set(of):
        raise InvalidArgument(f"{', '.join(sorted(missing))} not measured; the guard's ratios need all of its peers")
    if (count := len(of[OFF])) < ALTERNATIONS:
        raise InvalidArgument(f"{count} alternations were measured; the guard needs {ALTERNATIONS} or more")
    found = {
        f"{peer} over {over}": ratio([t.tokens_per_s for t in of[peer]], [t.tokens_per_s for t in of[over]])
        for peer, over in _GUARDED
    }
    router_s = [turn.router_s for turn in of["fleet"] if turn.router_s is not None]
    found[_ROUTER] = ratio([turn.token_s for turn in of[PLAIN]], router_s)
    if wide := [name for name, each in found.items() if each.high - each.low > _WIDEST * each.median]:
        raise InvalidArgument(
            "too uneven to tell a loss from noise: "
            + ", ".join(f"{name} {_shown(found[name])}" for name in wide)
            + "; measure more alternations, or while nothing else runs"
        )
    return found


def dropped(now: Mapping[str, Estimate], before: Mapping[str, Estimate]) -> list[str]:
    """What to say of each ratio that is worse than before, when both runs are given their noise."""
    found = []
    for name, was in before.items():
        if name not in now:
            raise InvalidArgument(f"the baseline holds {name!r}, which this run did not measure; make a new baseline")
        if now[name].high < was.low:
            found.append(f"{name}: {_shown(now[name])}, was {_shown(was)}")
    return found


def read_baseline(path: Path, conditions: Mapping[str, object]) -> dict[str, Estimate]:
    """Its ratios; refused where it was made under other conditions, which ratios cannot be held against."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        ratios = {name: Estimate(**of) for name, of in content["ratios"].items()}
        made_under = dict(content["conditions"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidArgument(
            f"cannot read a baseline from {path} ({error!r}); make one with --save-baseline {path}"
        ) from error
    if made_under != dict(conditions):
        raise InvalidArgument(f"the baseline was made with {made_under}, and this run has {dict(conditions)}")
    return ratios


def write_baseline(path: Path, ratios: Mapping[str, Estimate], conditions: Mapping[str, object], machine: str) -> None:
    content = {
        "machine": machine,
        "conditions": dict(conditions),
        "ratios": {name: asdict(estimate) for name, estimate in ratios.items()},
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _shown(estimate: Estimate) -> str:
    return f"{estimate.median:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"
