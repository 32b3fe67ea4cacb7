"""Settings of the router: where it listens, and how much it takes on."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from contracts.config.fields import ConfigModel

Port = Annotated[int, Field(ge=0, le=65_535)]


class RouterConfig(ConfigModel):
    """The router's faces, its bounds, and what speculation is unless a request says otherwise."""

    host: Annotated[
        str,
        Field(
            pattern=r"^[^\[\]]{1,253}$",
            description="Address on which it listens, for clients and workers alike",
            json_schema_extra={"x-right": "text of 1 to 253 characters, IPv6 without brackets"},
        ),
    ] = "127.0.0.1"
    grpc_port: Annotated[Port, Field(description="Port for gRPC, clients and workers; 0: any free one")] = 50051
    http_port: Annotated[Port, Field(description="Port for HTTP; 0: any free one")] = 8000
    mode: Annotated[
        Literal["off", "vanilla", "pearl", "fleet"],
        Field(description="How drafting and verification work together where a request does not say it"),
    ] = "fleet"
    fusion: Annotated[
        Literal["auto", "merged", "every_step"],
        Field(
            description="How several drafters of a sequence work together: each runs freely and trees are merged, or "
            "all step together; auto: whichever is measured to give more"
        ),
    ] = "auto"
    drafting: Annotated[
        Literal["priced", "always"],
        Field(
            description="priced: the fleet drafts, in turn with the target or ahead of it, only while that is measured "
            "to give more tokens a second than plain decoding; always: as the mode says, and all of it is checked, "
            "whatever it costs"
        ),
    ] = "priced"
    max_draft: Annotated[
        int,
        Field(ge=1, le=256, description="Most draft nodes of a sequence that one round checks"),
    ] = 8
    max_running: Annotated[
        int,
        Field(ge=1, le=65_536, description="Most sequences that are generated at a time"),
    ] = 64
    max_waiting: Annotated[
        int,
        Field(ge=0, le=1_000_000, description="Most requests that wait for their turn; more are refused at once"),
    ] = 256
    client_grace_s: Annotated[
        float,
        Field(ge=0, le=86_400, description="Seconds for which a request goes on after its client was lost"),
    ] = 30.0

    @model_validator(mode="after")
    def _check_ports(self) -> Self:
        """`grpc_port` and `http_port` differ, unless both are 0."""
        if self.grpc_port == self.http_port != 0:
            raise ValueError(f"grpc_port and http_port are both {self.http_port}; one of them must be another")
        return self


def host_port(host: str, port: int) -> str:
    """Both as one address, as it is listened at and dialled."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
