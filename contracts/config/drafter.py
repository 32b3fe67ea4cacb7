"""Settings of one drafter node."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from contracts.config.engine import EngineConfig
from contracts.config.fields import ConfigModel

DrafterKind = Literal["model", "prompt_lookup", "recycling", "trigram", "stand", "lookahead", "retrieval"]
_Amount = Annotated[float, Field(ge=0, le=1_000_000)]
_Label = Annotated[str, Field(min_length=1, max_length=253)]


def _show_as_mapping(schema: dict[str, Any]) -> None:
    """Absent is not a value to write, and a fault inside is to be named as what it is; see errors.py."""
    schema.update(schema.pop("anyOf")[0])


class DrafterConfig(ConfigModel):
    """What drafts, how much of it, and where it is placed."""

    kind: Annotated[
        DrafterKind,
        Field(description="What it drafts with: a small model, or one of the kinds that need none"),
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
    num_cpus: Annotated[
        float,
        Field(ge=0, le=1024, description="CPUs that its place must have free, in fractions where it shares one"),
    ] = 1.0
    num_gpus: Annotated[
        float,
        Field(ge=0, le=64, description="GPUs that its place must have free, in fractions where it shares one"),
    ] = 0.0
    resources: Annotated[
        dict[str, _Amount],
        Field(description="Custom resources that its place must have free, as the cluster's nodes name them"),
    ] = {}  # noqa: RUF012  # pydantic gives every instance its own copy
    labels: Annotated[
        dict[str, _Label],
        Field(description="Labels that the node of its place must carry"),
    ] = {}  # noqa: RUF012

    @model_validator(mode="after")
    def _check_engine(self) -> Self:
        if self.kind == "model" and self.engine is None:
            raise ValueError("kind is 'model' and engine is missing; it must say which model, and on what")
        if self.kind != "model" and self.engine is not None:
            raise ValueError(f"kind is '{self.kind}' and engine is given; it must be left out, or kind be 'model'")
        return self
