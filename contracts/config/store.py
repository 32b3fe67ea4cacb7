"""Settings of the store: where the journal and what was learned are kept, and what happens without it."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from contracts.config.fields import ConfigModel

STORE_HELP = (
    '"embedded", "memory", or a Redis URL such as "redis://host:6379/0" (rediss:// with TLS, unix:///path/of/a/socket, '
    "redis+sentinel://host:26379,host2:26379/name-of-the-master/0, redis+cluster://host:6379,host2:6379)"
)
_SERVERS = r"[^\s/,@]+(,[^\s/,@]+)*"
_USER = r"([^\s/@]*@)?"
_REDIS_URL = re.compile(
    rf"rediss?://[^\s/]+(/[0-9]{{1,4}})?|unix://([^\s/@]*@)?/[^\s]+|"
    rf"rediss?\+sentinel://{_USER}{_SERVERS}/[\w.-]+(/[0-9]{{1,4}})?|rediss?\+cluster://{_USER}{_SERVERS}",
    re.ASCII,
)
_File = Annotated[str, Field(min_length=1, max_length=4096)]


def _check_url(url: str) -> str:
    if url not in ("embedded", "memory") and not (len(url) <= 1024 and _REDIS_URL.fullmatch(url)):
        raise ValueError(f"it must be {STORE_HELP}")
    return url


class StoreConfig(ConfigModel):
    """Which store the fleet writes to, and how much is certain before a client hears of it (docs/reliability.md)."""

    url: Annotated[
        str,
        AfterValidator(_check_url),
        WithJsonSchema({"type": "string", "x-right": STORE_HELP}),
        Field(
            description="embedded: a server of its own, which `cluster up` starts beside the router; memory: nothing "
            "outlives the router"
        ),
    ] = "embedded"
    namespace: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9_.-]{1,64}$",
            description="Tells fleets apart that share a store",
            json_schema_extra={"x-right": "1 to 64 of the characters A-Z, a-z, 0-9, _, . and -"},
        ),
    ] = "default"
    password_file: Annotated[
        _File | None, Field(description="File with the store's password, so that none is in the URL")
    ] = None
    sentinel_password_file: Annotated[
        _File | None, Field(description="File with the password of the Sentinels themselves, where they have one")
    ] = None
    ca_file: Annotated[_File | None, Field(description="Certificate authority of a store with TLS (PEM)")] = None
    cert_file: Annotated[_File | None, Field(description="The router's own certificate for the store (PEM)")] = None
    key_file: Annotated[_File | None, Field(description="Key of cert_file (PEM)")] = None
    journal: Annotated[
        Literal["off", "buffered", "acknowledged", "fsynced"],
        Field(
            description="When a client hears that its request is accepted: with no journal, before the store has it, "
            "when the store has it, when the store has it on disk"
        ),
    ] = "acknowledged"
    num_replicas: Annotated[
        int,
        Field(ge=0, le=16, description="Replicas of the store that must have a request too before it is accepted"),
    ] = 0
    keep_s: Annotated[
        float,
        Field(ge=1, le=604_800, description="Seconds for which the journal keeps requests that have ended"),
    ] = 600.0
    on_loss: Annotated[
        Literal["wait", "refuse", "continue"],
        Field(
            description="New requests while the store is away: they wait for it, are refused, or run without a journal"
        ),
    ] = "refuse"
    lease_s: Annotated[
        float,
        Field(ge=0.2, le=300, description="Seconds without a sign of life after which another router may take over"),
    ] = 3.0
    when_cut_off: Annotated[
        Literal["continue", "stop"],
        Field(
            description="A router that cannot renew its lease because the store is away: continue, which is right "
            "where no other router stands by, or stop speaking when the lease ends"
        ),
    ] = "continue"
    snapshot_s: Annotated[
        float,
        Field(ge=0.1, le=86_400, description="Seconds between two snapshots of what was learned about drafters"),
    ] = 30.0

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        """`cert_file` goes with `key_file`, and `ca_file` with a URL that uses TLS. `fsynced` and `num_replicas` need a
        store that can wait for its disk and its replicas, as a Redis Cluster cannot; the embedded one has no replicas.
        `sentinel_password_file` goes with a URL of Sentinels.
        """
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file go together; give both or none")
        if self.ca_file is not None and not self.url.startswith("rediss"):
            raise ValueError(f"ca_file is set and url does not use TLS; it must begin with rediss, like {STORE_HELP}")
        if self.sentinel_password_file is not None and "+sentinel" not in self.url:
            raise ValueError(f"sentinel_password_file is set and url names no Sentinels; it must be like {STORE_HELP}")
        if "+cluster" in self.url and (self.journal == "fsynced" or self.num_replicas):
            raise ValueError(
                "journal fsynced and num_replicas cannot be had of a Redis Cluster, which has no way to wait for a "
                "write of one slot; use journal acknowledged without num_replicas, or a store with Sentinel"
            )
        if self.url == "embedded" and self.num_replicas:
            raise ValueError(f"num_replicas is {self.num_replicas} and the embedded store has none; it must be 0")
        return self
