"""The rules by name, and the kind of draft each is right for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from contracts.errors import InvalidArgument
from speculation.rules import (
    block,
    greedy_multipath,
    optimal_transport,
    rsd,
    shared_noise,
    specinfer,
    spectr,
    standard,
    traversal,
)
from speculation.rules.rule import Rule

__all__ = ["RULES", "DraftKind", "NamedRule", "rule_named"]


class DraftKind(Enum):
    """How the tokens must have been drawn."""

    ONE_PATH = "one path"
    PATHS = "independent paths"
    DISTINCT = "tree of draws without replacement"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedRule:
    name: str
    settle: Rule
    kind: DraftKind


_ALL = (
    NamedRule(name="standard", settle=standard.settle, kind=DraftKind.ONE_PATH),
    NamedRule(name="block", settle=block.settle, kind=DraftKind.ONE_PATH),
    NamedRule(name="shared_noise", settle=shared_noise.settle, kind=DraftKind.ONE_PATH),
    NamedRule(name="specinfer", settle=specinfer.settle, kind=DraftKind.PATHS),
    NamedRule(name="spectr", settle=spectr.settle, kind=DraftKind.PATHS),
    NamedRule(name="optimal_transport", settle=optimal_transport.settle, kind=DraftKind.PATHS),
    NamedRule(name="greedy_multipath", settle=greedy_multipath.settle, kind=DraftKind.PATHS),
    NamedRule(name="traversal", settle=traversal.settle, kind=DraftKind.PATHS),
    NamedRule(name="rsd", settle=rsd.settle, kind=DraftKind.DISTINCT),
    NamedRule(name="traversal_distinct", settle=traversal.settle, kind=DraftKind.DISTINCT),
    NamedRule(name="optimal_transport_distinct", settle=optimal_transport.settle, kind=DraftKind.DISTINCT),
)

RULES: Mapping[str, NamedRule] = MappingProxyType({rule.name: rule for rule in _ALL})


def rule_named(name: str) -> NamedRule:
    try:
        return RULES[name]
    except KeyError:
        raise InvalidArgument(f"there is no verification rule {name!r}; there are {', '.join(RULES)}") from None
