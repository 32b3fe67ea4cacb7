"""Names that the parts of a fleet go by: on the wire, in metrics, as actors and in URLs alike."""

from __future__ import annotations

import re

NAME_HELP = "1 to 63 of the characters a-z, 0-9, - and _"
_NAME = re.compile(r"[a-z0-9_-]{1,63}", re.ASCII)


def is_name(text: str) -> bool:
    """Whether this can be a name."""
    return _NAME.fullmatch(text) is not None
