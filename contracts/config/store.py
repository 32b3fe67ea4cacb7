"""Settings of the store: where the journal and what was learned are kept."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema

from contracts.config.fields import ConfigModel

STORE_HELP = '"embedded", "memory", or a Redis URL such as "redis://host:6379/0" (rediss:// with TLS)'
_REDIS_URL = re.compile(r"rediss?://[^\s/]+(/[0-9]{1,4})?", re.ASCII)


def _check_url(url: str) -> str:
    if url not in ("embedded", "memory") and not (len(url) <= 1024 and _REDIS_URL.fullmatch(url)):
        raise ValueError(f"it must be {STORE_HELP}")
    return url


class StoreConfig(ConfigModel):
    """Which store the fleet writes to."""

    url: Annotated[
        str,
        AfterValidator(_check_url),
        WithJsonSchema({"type": "string", "x-right": STORE_HELP}),
        Field(description="embedded: a server of its own beside the router; memory: nothing outlives the router"),
    ] = "embedded"
