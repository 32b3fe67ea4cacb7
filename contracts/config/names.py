"""Names that the parts of a fleet go by: on the wire, in metrics, as actors and in URLs alike."""

from __future__ import annotations

import re
from collections.abc import Container

NAME_HELP = "1 to 63 of the characters a-z, 0-9, - and _"
_NAME = re.compile(r"[a-z0-9_-]{1,63}", re.ASCII)
_NUMBERED = re.compile(r"(.+)-[0-9]+", re.ASCII)


def is_name(text: str) -> bool:
    """Whether this can be a name."""
    return _NAME.fullmatch(text) is not None


def names_of(entry: str, replicas: int) -> list[str]:
    """What the processes are called for which one entry of the fleet's file stands."""
    return [entry] if replicas == 1 else [f"{entry}-{number}" for number in range(replicas)]


def entry_of(name: str, entries: Container[str]) -> str | None:
    """The entry of the fleet's file that the process of this name belongs to: its own, or that of all NAME-NUMBER."""
    if name in entries:
        return name
    numbered = _NUMBERED.fullmatch(name)
    return numbered[1] if numbered is not None and numbered[1] in entries else None
