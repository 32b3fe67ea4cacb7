"""Kinds of values that config keys share: the `auto` word and sizes in bytes."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

Auto = Literal["auto"]
"""Chosen from the machine and the model when the configuration is resolved."""


class ConfigModel(BaseModel):
    """Base of every part of the config tree: frozen, no unknown keys, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


LEAST_AMOUNT = 1e-4
"""Of a resource of a place: in these steps a cluster counts."""

_LABEL = "[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
_PREFIX = "[a-zA-Z0-9]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9])?"
_KEY = re.compile(rf"({_PREFIX}(\.{_PREFIX})*/)?{_LABEL}")
_LABEL_HELP = "1 to 63 letters, digits, -, _ and ., a letter or digit at both ends"


def _check_keys(labels: dict[str, str]) -> dict[str, str]:
    if not all(map(_KEY.fullmatch, labels)):
        raise ValueError(f"each key must be {_LABEL_HELP}, and may have such a prefix before a /")
    return labels


Labels = Annotated[
    dict[str, Annotated[str, Field(pattern=f"^{_LABEL}$", json_schema_extra={"x-right": _LABEL_HELP})]],
    AfterValidator(_check_keys),
    Field(json_schema_extra={"x-right": f"a mapping of labels, key and value {_LABEL_HELP}; keys may have a prefix/"}),
]
"""Labels that a cluster's node carries."""

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
