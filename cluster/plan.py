"""What is placed where, and what can be seen to be impossible before anything starts. Pure: machines are arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from contracts.config import DrafterConfig, EngineConfig, FleetConfig, SecurityConfig
from contracts.config.names import NAME_HELP, is_name, names_of
from contracts.errors import ConfigError, InvalidArgument, shown
from engine.hub import is_hub_id

__all__ = [
    "VERIFIER",
    "Dial",
    "Node",
    "Placement",
    "drafter_placement",
    "drafters_of",
    "guest_amounts",
    "misfits",
    "placements",
    "with_models_found",
]

VERIFIER = "verifier"
"""The name of the verifier group in the fleet, which no drafter can have."""

_CPU, _GPU = "CPU", "GPU"
_DEMO = Path("models/demo")
_DIGITS = 4  # of an amount, as Ray counts; parts of a GPU that add up to a hair more than 1 would be refused
_EPSILON = 1e-6  # amounts are fractions that were added up


@dataclass(frozen=True, slots=True, kw_only=True)
class Dial:
    """How workers reach the router; with which certificates, on their own machine, is by what they are."""

    router: str
    security: SecurityConfig = field(default_factory=SecurityConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """One worker of the fleet, and what the place of its process must have.

    The ranks of a verifier are children of one process (`engine/local_group.py`), which must see all their GPUs: so a
    group is one placement, on one machine, and not one for each rank.
    """

    name: str
    amounts: Mapping[str, float]
    """By resource; CPU and GPU are two of them. None is zero."""
    labels: Mapping[str, str]
    guests: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """What drafters that live in this process too need, which is among the amounts."""
    is_guest: bool = False
    """Whether it is one of those, and has no place of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One machine of a cluster: what of it is free, and what it is called."""

    name: str
    amounts: Mapping[str, float]
    labels: Mapping[str, str]


def placements(config: FleetConfig, *, has_gpus: bool, is_local: bool) -> list[Placement]:
    """All of them, the verifier first: without it the others are of no use."""
    if VERIFIER in config.drafters:
        raise ConfigError(f"drafters has the name {VERIFIER!r}, which is the target's; it must be another name")
    drafters = [
        drafter_placement(name, config.drafters[entry], is_local=is_local)
        for name, entry in drafters_of(config).items()
    ]
    return [_verifier_placement(config, has_gpus=has_gpus, is_local=is_local), *drafters]


def drafters_of(config: FleetConfig) -> dict[str, str]:
    """The drafters to place by name, each with its entry in the file."""
    return {name: entry for entry, of in config.drafters.items() for name in names_of(entry, of.replicas)}


def drafter_placement(name: str, config: DrafterConfig, *, is_local: bool) -> Placement:
    """Labels and custom resources tell machines apart; where there is only one, it is the right one."""
    if not is_name(name) or name == VERIFIER:
        raise InvalidArgument(f"the drafter's name is {shown(name)}; it must be {NAME_HELP}, and not {VERIFIER!r}")
    if config.with_target:
        return Placement(name=name, amounts={}, labels={}, is_guest=True)
    if config.engine is not None and config.engine.device == "cuda" and config.num_gpus == 0:
        raise ConfigError(
            f"drafter {name} has engine.device 'cuda' and num_gpus 0, which books no GPU for it; num_gpus must be "
            "above 0, and may be a fraction, or engine.device auto or cpu"
        )
    amounts = {_CPU: config.num_cpus, _GPU: config.num_gpus, **({} if is_local else config.resources)}
    return Placement(name=name, amounts=_nonzero(amounts), labels={} if is_local else config.labels)


def misfits(wanted: Sequence[Placement], nodes: Sequence[Node]) -> list[str]:
    """Why these placements can never be on these nodes together; nothing where it cannot be ruled out.

    Two reasons are certain: a placement for which no single node has enough, and a sum that is more than all nodes
    have. Whether a fleet between these bounds can be packed is for Ray to find out.
    """
    have = "; ".join(f"{node.name} has {_shown_node(node)}" for node in nodes) or "there is no node"
    alone = [
        f"{placement.name} needs {_shown(placement)}, and no node has that ({have})"
        for placement in wanted
        if not any(_fits(placement, node) for node in nodes)
    ]
    return alone or [
        f"all together need {needed:g} {name}, and all nodes together have {free:g} ({have}){_hint(name)}"
        for name, needed, free in _sums(wanted, nodes)
        if needed > free + _EPSILON
    ]


def with_models_found(config: FleetConfig, *, is_local: bool, is_folder: Callable[[Path], bool]) -> FleetConfig:
    """The same fleet with absolute paths, so that it means the same in every process; or a ConfigError for all models
    that are nowhere. What looks like a hub id is left to the node, and on a cluster also an absolute path, for its
    machines have folders that this one has not.
    """
    engines = {"engine": config.engine}
    engines |= {f"drafters.{name}.engine": of.engine for name, of in config.drafters.items() if of.engine is not None}
    found, missing = dict[str, EngineConfig](), dict[str, str]()
    for key, engine in engines.items():
        path = Path(engine.model)
        if is_folder(path):
            found[key] = engine.model_copy(update={"model": str(path.absolute())})
        elif is_hub_id(engine.model) or (path.is_absolute() and not is_local):
            found[key] = engine
        else:
            missing[f"{key}.model"] = engine.model
    if missing:
        raise ConfigError(_missing(missing))
    drafters = {
        name: of.model_copy(update={"engine": found.get(f"drafters.{name}.engine")})
        for name, of in config.drafters.items()
    }
    return config.model_copy(update={"engine": found["engine"], "drafters": drafters})


def _missing(models: Mapping[str, str]) -> str:
    said = ", ".join(f"{key} is {shown(model)}" for key, model in models.items())
    hint = ""
    if any(Path(model).is_relative_to(_DEMO) for model in models.values()):
        hint = f"; the demo family is made by `python -m models.build --corpus DIR --out {_DEMO}`, see models/README.md"
    return f"there is no such folder: {said}; a model must be a checkpoint folder or a hub id{hint}"


def _verifier_placement(config: FleetConfig, *, has_gpus: bool, is_local: bool) -> Placement:
    """A GPU for each rank, or its part of one; or the CPUs that its threads keep busy, where the machine decides, one
    for each rank. With what the drafters in its process need."""
    of, gpus_each = config.engine, config.verifier.num_gpus
    uses_gpus = of.device == "cuda" or (of.device == "auto" and has_gpus)
    if uses_gpus and gpus_each < 1 and of.tensor_parallel > 1:
        raise ConfigError(
            f"verifier.num_gpus is {gpus_each:g} and engine.tensor_parallel is {of.tensor_parallel}; a group's ranks "
            "are on a GPU each, and of several Ray books none in part: one of the two must be 1"
        )
    threads = 1 if uses_gpus or of.num_threads == "auto" else of.num_threads
    own = {_CPU: float(threads * of.tensor_parallel), _GPU: of.tensor_parallel * gpus_each if uses_gpus else 0.0}
    guests = {name: guest_amounts(guest) for name, guest in config.drafters.items() if guest.with_target}
    amounts = {
        name: round(amount + sum(guest.get(name, 0.0) for guest in guests.values()), _DIGITS)
        for name, amount in own.items()
    }
    labels = {} if is_local else config.verifier.labels
    return Placement(name=VERIFIER, amounts=_nonzero(amounts), labels=labels, guests=guests)


def guest_amounts(config: DrafterConfig) -> Mapping[str, float]:
    """What a drafter needs of the place of the target, in whose process it lives."""
    return _nonzero({_CPU: config.num_cpus, _GPU: config.num_gpus})


def _nonzero(amounts: Mapping[str, float]) -> dict[str, float]:
    return {name: amount for name, amount in amounts.items() if amount > 0.0}


def _fits(placement: Placement, node: Node) -> bool:
    return placement.labels.items() <= node.labels.items() and all(
        amount <= node.amounts.get(name, 0.0) + _EPSILON for name, amount in placement.amounts.items()
    )


def _sums(wanted: Sequence[Placement], nodes: Sequence[Node]) -> list[tuple[str, float, float]]:
    names = dict.fromkeys(name for placement in wanted for name in placement.amounts)
    return [
        (name, sum(of.amounts.get(name, 0.0) for of in wanted), sum(of.amounts.get(name, 0.0) for of in nodes))
        for name in names
    ]


def _hint(name: str) -> str:
    if name != _GPU:
        return ""
    return "; verifier.num_gpus and a drafter's num_gpus may be fractions, of which several share a GPU"


def _shown(placement: Placement) -> str:
    amounts = [f"{amount:g} {name}" for name, amount in placement.amounts.items()]
    labels = [f"label {name}={value}" for name, value in placement.labels.items()]
    return ", ".join([*amounts, *labels]) or "nothing"


def _shown_node(node: Node) -> str:
    amounts = [f"{amount:g} {name}" for name, amount in sorted(node.amounts.items())]
    labels = [f"label {name}={value}" for name, value in sorted(node.labels.items())]
    return ", ".join([*amounts, *labels]) or "nothing free"
