"""Reading plain data that others wrote: every value is checked for its kind and range before it is used."""

from __future__ import annotations

from contracts.errors import InvalidArgument, shown

__all__ = ["integer", "integers", "items", "member", "number"]


def member(value: object, name: str) -> object:
    """A member of an object."""
    if not isinstance(value, dict) or name not in value:
        raise InvalidArgument(f"snapshot has no {name!r} where there should be one: {shown(type(value).__name__)}")
    found: object = value[name]
    return found


def items(value: object, what: str, *, least: int = 0, most: int | None = None) -> list[object]:
    """A list whose size lies between two limits."""
    if not isinstance(value, list):
        raise InvalidArgument(f"snapshot has {shown(value)} as {what}; it is a list")
    if len(value) < least or (most is not None and len(value) > most):
        raise InvalidArgument(
            f"snapshot has {what} of {len(value)} entries; it takes {least} to {most or 'any number'}"
        )
    return value


def integer(value: object, what: str, low: int, high: int) -> int:
    """An integer in [low, high]; true and false are none."""
    if type(value) is not int or not low <= value <= high:
        raise InvalidArgument(f"snapshot has {shown(value)} as {what}; it is an integer in [{low}, {high}]")
    return value


def number(value: object, what: str, low: float, high: float) -> float:
    """A number in [low, high]; NaN, true and false are none."""
    if type(value) not in (int, float) or not low <= value <= high:  # type: ignore[operator]  # a number by now
        raise InvalidArgument(f"snapshot has {shown(value)} as {what}; it is a number in [{low:g}, {high:g}]")
    return float(value)  # type: ignore[arg-type]


def integers(value: object, what: str, low: int, high: int, *, least: int = 0, most: int | None = None) -> list[int]:
    """A list of integers in [low, high]."""
    return [integer(one, what, low, high) for one in items(value, what, least=least, most=most)]
