"""Settings of the router: where it listens, and how much it takes on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from contracts.config.fields import ConfigModel

Port = Annotated[int, Field(ge=0, le=65_535)]


class RouterConfig(ConfigModel):
    """The router's faces, its bounds, and what speculation is unless a request says otherwise."""

    host: Annotated[
        str,
        Field(min_length=1, max_length=253, description="Address on which it listens, for clients and workers alike"),
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
        Field(ge=0, le=256, description="Most draft nodes of a sequence that one round checks"),
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
