"""What the modes are made of: one mechanism, switched on part by part, so that each part can be measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from contracts.errors import InvalidArgument, shown
from speculation.manner import Manner

__all__ = ["MODES", "ModeParts", "mode_parts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeParts:
    """`max_drafters` 0 is plain decoding. `is_routed`: drafters are chosen by expertise and speed, else the first one
    drafts. `is_budgeted`: nodes of all sequences compete for the round, else each takes what it has up to its maximum.
    `runs_ahead`: drafters draft on while the target verifies. `takes_turns`: they wait for the verdict and the target
    for them. With both, or where it `is_priced`, the fleet does what gives the most tokens a second.
    """

    max_drafters: int
    is_routed: bool = False
    is_budgeted: bool = False
    is_priced: bool = True
    runs_ahead: bool = False
    takes_turns: bool = False
    is_chain: bool = False

    @property
    def manners(self) -> tuple[Manner, ...]:
        """In which drafting may go on, the most ambitious first."""
        drafting = (Manner.AHEAD,) * self.runs_ahead + (Manner.IN_TURN,) * self.takes_turns
        if not drafting:
            return (Manner.PLAIN,)
        return (*drafting, Manner.PLAIN) if self.is_priced else drafting[:1]

    def without(self, part: str) -> ModeParts:
        """With one part switched off, to see what it gives."""
        match part:
            case "routing":
                return replace(self, is_routed=False)
            case "fusion":
                return replace(self, max_drafters=min(self.max_drafters, 1))
            case "run_ahead":
                return replace(self, runs_ahead=False, takes_turns=self.max_drafters > 0)
            case "budget":
                return replace(self, is_budgeted=False)
            case "pricing":
                return replace(self, is_priced=False)
            case _:
                raise InvalidArgument(
                    f"a mode has no part {shown(part)}; parts are routing, fusion, run_ahead, budget and pricing"
                )


MODES: Mapping[str, ModeParts] = MappingProxyType(
    {
        "off": ModeParts(max_drafters=0),
        "vanilla": ModeParts(max_drafters=1, is_budgeted=True, takes_turns=True, is_chain=True),
        "pearl": ModeParts(max_drafters=1, is_budgeted=True, runs_ahead=True),
        "fleet": ModeParts(max_drafters=3, is_routed=True, is_budgeted=True, runs_ahead=True, takes_turns=True),
    }
)


def mode_parts(mode: str) -> ModeParts:
    """The parts of a mode by name, such as `fleet` or `fleet-routing-budget`: a mode less some of its parts."""
    name, *less = mode.split("-")
    parts = MODES.get(name)
    if parts is None:
        raise InvalidArgument(f"mode is {shown(mode)}; modes are {', '.join(MODES)}")
    for part in less:
        parts = parts.without(part)
    return parts
