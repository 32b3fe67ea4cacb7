"""Reading plain data that others wrote: every complaint says what it was, the value found, and what would be right."""

from __future__ import annotations

import math

from contracts.errors import InvalidArgument, shown

__all__ = ["field_of", "integer", "items", "number", "text"]


def field_of(what: str, value: object, name: str) -> object:
    """An entry of a dict."""
    if not isinstance(value, dict) or name not in value:
        raise InvalidArgument(f"{what} has no {name!r} where there should be one: {shown(value)}")
    found: object = value[name]
    return found


def items(what: str, value: object, most: int) -> list[object]:
    """A list, not longer than whoever wrote it could have made it."""
    if not isinstance(value, list):
        raise InvalidArgument(f"{what} has {shown(value)} where a list should be")
    if len(value) > most:
        raise InvalidArgument(f"{what} has a list of {len(value)}; right are at most {most}")
    return value


def integer(what: str, value: object, low: int, high: int) -> int:
    """An integer from low to high."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidArgument(f"{what} has {shown(value)} where an integer from {low} to {high} should be")
    return value


def number(what: str, value: object, low: float, high: float) -> float:
    """A finite number from low to high."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
        raise InvalidArgument(f"{what} has {shown(value)} where a finite number should be")
    if not low <= value <= high:
        raise InvalidArgument(f"{what} has {shown(value)}; right is {low:g} to {high:g}")
    try:
        return float(value)
    except OverflowError:
        raise InvalidArgument(f"{what} has {shown(value)}, which is too large") from None


def text(what: str, value: object) -> str:
    """A text of 1 to 256 characters."""
    if not isinstance(value, str) or not 0 < len(value) <= 256:
        raise InvalidArgument(f"{what} has {shown(value)} where a text of 1 to 256 characters should be")
    return value
