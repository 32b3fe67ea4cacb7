"""Settings of the verifier group, besides those of its engine."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from contracts.config.fields import LEAST_AMOUNT, ConfigModel, Labels


class PruneConfig(ConfigModel):
    """A place where draft rows may leave a round."""

    layer: Annotated[int, Field(ge=0, le=100_000, description="After this layer, counted from 0")]
    max_above: Annotated[
        int,
        Field(ge=1, le=1_000_000, description="A row leaves if so many tokens are likelier than its own; learned on"),
    ]


class VerifierConfig(ConfigModel):
    """How rounds are computed."""

    prune: Annotated[
        list[PruneConfig],
        Field(description="After which layers draft rows may leave; empty: no row leaves. With one rank only"),
    ] = []  # noqa: RUF012  # pydantic gives every instance its own copy

    num_gpus: Annotated[
        float,
        Field(
            ge=LEAST_AMOUNT,
            le=1,
            description="What each rank has of a GPU, where it runs on GPUs: less than 1 leaves the rest to others, of "
            "its place and of the memory that kv_cache_bytes: auto plans with. Less than 1 with one rank only",
        ),
    ] = 1.0
    labels: Annotated[
        Labels,
        Field(description="Labels that the node of its place must carry"),
    ] = {}  # noqa: RUF012

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        """Layers rise, and `max_above` does not: deeper layers know more."""
        layers, numbers = [at.layer for at in self.prune], [at.max_above for at in self.prune]
        if layers != sorted(set(layers)) or numbers != sorted(numbers, reverse=True):
            raise ValueError(
                f"prune has the layers {layers} with max_above {numbers}; layers must rise, and since deeper ones know "
                "more, max_above must not"
            )
        return self

    @property
    def max_above(self) -> dict[int, int]:
        """By layer."""
        return {at.layer: at.max_above for at in self.prune}
