"""Settings of one drafter node."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from contracts.config.engine import EngineConfig
from contracts.config.fields import LEAST_AMOUNT, ConfigModel, Labels
from contracts.errors import shown

OwnKind = Literal["model", "prompt_lookup", "recycling", "trigram", "stand", "lookahead", "retrieval"]
KIND_HELP = f"{', '.join(get_args(OwnKind))}, or a class of yours as module:Class"
_KIND = rf"{'|'.join(get_args(OwnKind))}|[A-Za-z_][A-Za-z0-9_.]{{0,199}}:[A-Za-z_][A-Za-z0-9_]{{0,99}}"


def _check_kind(kind: str) -> str:
    if re.fullmatch(_KIND, kind) is None:
        raise ValueError(f"it must be {KIND_HELP}")
    return kind


DrafterKind = Annotated[
    str,
    AfterValidator(_check_kind),
    WithJsonSchema({"type": "string", "pattern": f"^({_KIND})$", "x-right": KIND_HELP}),
]
_Amount = Annotated[float, Field(ge=0, le=1_000_000)]
_NOT_CUSTOM = {"CPU": "in num_cpus", "GPU": "in num_gpus", "memory": "left out", "object_store_memory": "left out"}


def _show_as_mapping(schema: dict[str, Any]) -> None:
    """Absent is not a value to write, and a fault inside is to be named as what it is; see errors.py."""
    schema.update(schema.pop("anyOf")[0])


class DrafterConfig(ConfigModel):
    """What drafts, how much of it, and where it is placed."""

    kind: Annotated[
        DrafterKind,
        Field(
            description="What it drafts with: a small model, one of the kinds that need none, or a class of yours, "
            "which runs with all rights of the drafter's process"
        ),
    ]
    engine: Annotated[
        EngineConfig | None,
        Field(
            description="Its model and the device it runs on; for kind model, and for that kind alone",
            json_schema_extra=_show_as_mapping,
        ),
    ] = None
    capacity: Annotated[
        int,
        Field(ge=1, le=4096, description="Most sequences that it drafts for at a time"),
    ] = 64
    replicas: Annotated[
        int,
        Field(
            ge=0,
            le=256,
            description="Processes of it that `cluster up` places; of several, each has a name of its own: NAME-0, "
            "NAME-1 and so on. 0: none, for all of them are started elsewhere",
        ),
    ] = 1
    with_target: Annotated[
        bool,
        Field(
            description="Whether it lives in the target's process, on a stream of its own of the target's GPU, and not "
            "in a process and a place of its own. For kind model, on one rank, beside a target of one rank"
        ),
    ] = False
    num_cpus: Annotated[
        float,
        Field(ge=0, le=1024, description="CPUs that its place must have free, in fractions where it shares one"),
    ] = 1.0
    num_gpus: Annotated[
        float,
        Field(
            ge=0,
            le=64,
            description="GPUs that its place must have free, in fractions where it shares one, which are then also its "
            "part of the memory that kv_cache_bytes: auto plans with. With 0, device: auto is the CPU of its place",
        ),
    ] = 0.0
    resources: Annotated[
        dict[str, _Amount],
        Field(description="Custom resources that its place must have free, as the cluster's nodes name them"),
    ] = {}  # noqa: RUF012  # pydantic gives every instance its own copy
    labels: Annotated[
        Labels,
        Field(description="Labels that the node of its place must carry"),
    ] = {}  # noqa: RUF012

    @model_validator(mode="after")
    def _check_engine(self) -> Self:
        """`engine` goes with kind `model`, and with no other."""
        if self.kind == "model" and self.engine is None:
            raise ValueError("kind is 'model' and engine is missing; it must say which model, and on what")
        if self.kind != "model" and self.engine is not None:
            raise ValueError(f"kind is '{self.kind}' and engine is given; it must be left out, or kind be 'model'")
        return self

    @model_validator(mode="after")
    def _check_amounts(self) -> Self:
        """Of `num_cpus`, `num_gpus` and each of `resources` its place has none or at least 0.0001; over one GPU, whole
        ones. CPUs, GPUs and memory are no custom `resources`."""
        amounts = {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus}
        amounts |= {f"resources.{shown(name)}": amount for name, amount in self.resources.items()}
        for key, amount in amounts.items():
            if 0 < amount < LEAST_AMOUNT:
                raise ValueError(f"{key} is {amount:g}; it must be 0 or at least {LEAST_AMOUNT:g}")
        if self.num_gpus > 1 and not self.num_gpus.is_integer():
            raise ValueError(f"num_gpus is {self.num_gpus:g}; above 1 it must be a whole number")
        if wrong := [name for name in self.resources if name in _NOT_CUSTOM]:
            raise ValueError(f"resources has {wrong[0]!r}; it must be {_NOT_CUSTOM[wrong[0]]}")
        return self

    @model_validator(mode="after")
    def _check_with_target(self) -> Self:
        """`with_target` is for one model on one rank, and leaves no place to choose."""
        if not self.with_target:
            return self
        if self.engine is None:
            raise ValueError(f"with_target is true and kind is '{self.kind}'; only kind model gains by it")
        if self.engine.tensor_parallel != 1:
            raise ValueError(
                f"with_target is true and engine.tensor_parallel is {self.engine.tensor_parallel}; it must be 1, for "
                "other ranks would be processes of their own"
            )
        if self.engine.device == "cuda" and self.num_gpus == 0:
            raise ValueError(
                "with_target is true, engine.device 'cuda' and num_gpus 0; num_gpus must be above 0, which is its part "
                "of the target's GPU, or engine.device auto or cpu"
            )
        if self.engine.device == "cpu" and self.num_gpus > 0:
            raise ValueError(
                f"with_target is true, engine.device 'cpu' and num_gpus {self.num_gpus:g}; num_gpus must be 0, for "
                "that part of the target's GPU would be nobody's, or engine.device auto or cuda"
            )
        if self.replicas != 1:
            raise ValueError(
                f"with_target is true and replicas is {self.replicas}; it must be 1, for the target has one process"
            )
        if self.labels or self.resources:
            raise ValueError(
                "with_target is true and labels or resources are given; they must be left out, for its place is the "
                "target's"
            )
        return self

    @property
    def as_booked(self) -> DrafterConfig:
        """The drafter as it is started in its place: one that booked no GPU leaves alone those that it sees there, for
        nobody hides them from it."""
        if self.engine is None or self.num_gpus > 0 or self.engine.device != "auto":
            return self
        return self.model_copy(update={"engine": self.engine.model_copy(update={"device": "cpu"})})
