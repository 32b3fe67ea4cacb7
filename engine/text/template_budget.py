"""How much a chat template may do: a budget of work, and checks on operations that could make something huge at once.

Each rendering has one budget. Loop turns, calls, operators and outputs cost a unit, and more by the size of what they
make, so that neither time nor memory can grow beyond it. A clock stands behind that for whatever the units miss.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

# Templates in use do thousands of units of work and take milliseconds.
MAX_WORK = 1_000_000
MAX_SECONDS = 5.0
MAX_TEXT_CHARS = 8 * 1024 * 1024
_CHARS_PER_UNIT = 100
_ITEMS_PER_UNIT = 10
_MAX_INTEGER_BITS = 1024
_MAX_DEPTH = 100
_WIDE_FORMAT = re.compile(r"%[^a-zA-Z%]*(?:\d{4,}|\*)")


class OverBudget(Exception):
    """The template did more than any chat template needs."""


class Budget:
    """What one rendering may still do."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._left = MAX_WORK
        self._now_s = now_s
        self._deadline_s = now_s() + MAX_SECONDS

    def charge(self, *, num_chars: int = 0, num_items: int = 0) -> None:
        if num_chars > MAX_TEXT_CHARS:
            raise OverBudget(f"made a text of more than {MAX_TEXT_CHARS} characters")
        self._left -= 1 + num_chars // _CHARS_PER_UNIT + num_items // _ITEMS_PER_UNIT
        if self._left < 0:
            raise OverBudget(f"did more than {MAX_WORK} units of work")
        if self._now_s() > self._deadline_s:
            raise OverBudget(f"ran for more than {MAX_SECONDS:g} s")

    def charge_for(self, value: Any) -> Any:
        """Charge for a value just made, by its own size; what it refers to was charged when that was made."""
        if isinstance(value, str):
            self.charge(num_chars=len(value))
        elif isinstance(value, list | tuple | dict):
            self.charge(num_items=len(value))
        else:
            self.charge()
        return value

    def charge_text_of(self, value: Any) -> None:
        """Charge for the text that writing the value out will make. Containers may hold one long text many times."""
        self.charge(num_chars=_text_size(value, 0))


current_budget: ContextVar[Budget] = ContextVar("chat_template_budget")


def _text_size(value: Any, depth: int) -> int:
    if isinstance(value, str):
        return len(value)
    if not isinstance(value, list | tuple | dict):
        return 16
    if depth > _MAX_DEPTH:
        raise OverBudget(f"wrote out values nested more than {_MAX_DEPTH} deep")
    parts = value if not isinstance(value, dict) else [part for item in value.items() for part in item]
    num_chars = 2
    for part in parts:
        num_chars += 2 + _text_size(part, depth + 1)
        if num_chars > MAX_TEXT_CHARS:
            break
    return num_chars


def check_operation(sign: str, left: Any, right: Any) -> None:
    """Refuse `*`, `**` and `%` whose result could be huge. Results of `+` are no larger than what was paid for."""
    if sign == "+":
        if isinstance(left, str) and isinstance(right, str):
            current_budget.get().charge(num_chars=len(left) + len(right))
    elif sign == "%":
        if isinstance(left, str):
            if _WIDE_FORMAT.search(left):
                raise OverBudget(f"formatted with a width of more than three digits: {left[:40]!r}")
            current_budget.get().charge_text_of(right)
            current_budget.get().charge(num_chars=len(left))
    elif isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * max(right, 1) if sign == "**" else left.bit_length() + right.bit_length()
        if bits > _MAX_INTEGER_BITS:
            raise OverBudget(f"computed with integers of more than {_MAX_INTEGER_BITS} bits")
    elif sign == "*" and not (isinstance(left, int | float) and isinstance(right, int | float)):
        sized, count = (left, right) if isinstance(right, int) else (right, left)
        if not isinstance(sized, str) or not isinstance(count, int):
            raise OverBudget("multiplied something else than numbers, or a text by a number")
        current_budget.get().charge(num_chars=len(sized) * max(count, 0))


def checked_arguments(subject: str, method: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Refuse calls of the two string methods whose result can be much larger than what goes in."""
    if method == "replace" and len(arguments) >= 2:
        check_replacement(subject, arguments[0], arguments[1])
    elif method == "join" and arguments:
        parts = list(arguments[0])  # a generator can be measured only once it is a list
        check_join(parts, subject)
        return (parts, *arguments[1:])
    return arguments


def check_replacement(subject: str, old: Any, new: Any) -> None:
    if isinstance(old, str) and isinstance(new, str):
        current_budget.get().charge(num_chars=len(subject) + subject.count(old) * len(new))


def check_join(parts: Sequence[Any], separator: str) -> None:
    current_budget.get().charge(num_chars=len(parts) * len(separator))
    current_budget.get().charge_text_of(parts)
