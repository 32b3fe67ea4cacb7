"""Kinds of values that config keys share: the `auto` word and sizes in bytes."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

Auto = Literal["auto"]
"""Chosen from the machine and the model when the configuration is resolved."""


class ConfigModel(BaseModel):
    """Base of every part of the config tree: frozen, no unknown keys, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Label = Annotated[str, Field(min_length=1, max_length=253)]
"""What a label of a cluster's node says."""

_UNITS = {"B": 1}
_UNITS |= {f"{prefix}iB": 1024 ** (power + 1) for power, prefix in enumerate("KMGT")}
_UNITS |= {f"{prefix}B": 1000 ** (power + 1) for power, prefix in enumerate("KMGT")}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?([KMGT]i?B|B)")
MIN_SIZE_BYTES = 2**20
MAX_SIZE_BYTES = 2**50
SIZE_HELP = 'a size from 1MiB to 1024TiB such as "2GiB" or "500MB", or that many bytes'


def parse_size(value: object) -> object:
    """Bytes that a size such as "2GiB" stands for; an integer is bytes already; anything else is refused."""
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        if match is None:
            raise ValueError(f"it must be {SIZE_HELP}")
        value = int(float(match[1]) * _UNITS[match[2]])
    return value


SizeBytes = Annotated[
    int,
    Field(ge=MIN_SIZE_BYTES, le=MAX_SIZE_BYTES),
    BeforeValidator(parse_size),
    WithJsonSchema({"type": "string", "x-right": SIZE_HELP}),
]
