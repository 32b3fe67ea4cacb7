"""A run's ratios beside those of an earlier one: which have dropped by more than noise.

Some prompts are drafted for much better than others, so the ratios of one run differ between alternations by a half.
But every run asks the same in its first alternation, the same in its second, and so on: what is looked at is by how
much each has changed since.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from benchmarks.peers.estimate import Estimate, ratio
from benchmarks.peers.figures import ASSISTED, OFF, PLAIN
from benchmarks.peers.turns import Turn
from contracts.errors import InvalidArgument

__all__ = ["ALTERNATIONS", "dropped", "guarded", "read_baseline", "write_baseline"]

ALTERNATIONS = 27
"""At least. Many short ones: a machine is quick and slow by turns, and with two prompts each they take the 56 that are
committed, one turn to warm up with them."""
_HIDDEN = 0.25  # a loss that must not pass for noise
_LEAST = 0.05  # a loss that another day's machine may make
_DIGITS = 4  # that are kept

_GUARDED = (
    (OFF, PLAIN),
    ("fleet", PLAIN),
    ("fleet", ASSISTED),
    ("vanilla", OFF),
    ("pearl", OFF),
    ("fleet", OFF),
)
_ROUTER = f"router rounds of fleet in the time of one token of {PLAIN}"


def guarded(turns: Sequence[Turn]) -> dict[str, list[float]]:
    """Of every alternation. All ratios are better when they are larger. The time that the router takes for a round is
    told beside a time that no change of ours can move, so that it means the same on a faster machine."""
    of = {peer: [turn for turn in turns if turn.peer == peer] for peer in {turn.peer for turn in turns}}
    if missing := {peer for pair in _GUARDED for peer in pair} - set(of):
        raise InvalidArgument(f"{', '.join(sorted(missing))} not measured; the guard's ratios need all of its peers")
    if (count := len(of[OFF])) < ALTERNATIONS:
        raise InvalidArgument(f"{count} alternations were measured; the guard needs {ALTERNATIONS} or more")
    found = {
        f"{peer} over {over}": [a.tokens_per_s / b.tokens_per_s for a, b in zip(of[peer], of[over], strict=True)]
        for peer, over in _GUARDED
    }
    found[_ROUTER] = [
        plain.token_s / fleet.router_s for plain, fleet in zip(of[PLAIN], of["fleet"], strict=True) if fleet.router_s
    ]
    return found


def dropped(now: Mapping[str, Sequence[float]], before: Mapping[str, Sequence[float]]) -> list[str]:
    """What to say of each ratio that is worse than before. Refused where none surely is, but a large loss may hide."""
    if unlike := [name for name, was in before.items() if len(now.get(name, ())) != len(was)]:
        raise InvalidArgument(f"this run did not measure {unlike[0]!r} as often as the baseline; make a new baseline")
    changes = {name: ratio(now[name], was) for name, was in before.items()}
    lost = [name for name, change in changes.items() if change.high < 1.0 - _LEAST]
    unclear = [name for name, change in changes.items() if change.low < 1.0 - _HIDDEN]
    if unclear and not lost:
        raise InvalidArgument(
            f"too uneven, so that a loss of more than {_HIDDEN:.0%} may be hidden: "
            + ", ".join(f"{name} is {_shown(changes[name])} times what it was" for name in unclear)
            + "; measure more alternations, or while nothing else runs"
        )
    return [
        f"{name}: {median(now[name]):.2f}, was {median(before[name]):.2f}; "
        f"prompt by prompt {_shown(changes[name])} times that"
        for name in lost
    ]


def read_baseline(path: Path, conditions: Mapping[str, object]) -> dict[str, list[float]]:
    """Its ratios; refused where it was made under other conditions, which ratios cannot be held against."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        ratios = {name: [float(value) for value in of] for name, of in content["ratios"].items()}
        made_under = dict(content["conditions"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidArgument(
            f"cannot read a baseline from {path} ({error!r}); make one with --save-baseline {path}"
        ) from error
    if made_under != dict(conditions):
        raise InvalidArgument(f"the baseline was made with {made_under}, and this run has {dict(conditions)}")
    return ratios


def write_baseline(
    path: Path, ratios: Mapping[str, Sequence[float]], conditions: Mapping[str, object], machine: str
) -> None:
    content = {
        "machine": machine,
        "conditions": dict(conditions),
        "ratios": {name: [round(value, _DIGITS) for value in of] for name, of in ratios.items()},
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _shown(estimate: Estimate) -> str:
    return f"{estimate.median:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"
