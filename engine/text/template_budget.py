"""How much a chat template may do: a budget of work, charged by the size of whatever is made or walked.

Each rendering has one budget. Loop turns, calls, operators and outputs cost a unit, and more by the size of what they
make, so that neither time nor memory can grow beyond it. A clock stands behind that for whatever the units miss.

A list may hold one long text many times, and take little memory. Writing, comparing, sorting or hashing it takes as
long as if it held copies. So a value's size is the length of its text: no value may be larger than the longest text,
and what walks a value is charged for all of it, before it begins.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from types import NoneType
from typing import Any

from jinja2 import Undefined

# Templates in use have a few kilobytes, do thousands of units of work and take milliseconds.
MAX_SOURCE_CHARS = 256 * 1024
MAX_WORK = 1_000_000
MAX_SECONDS = 5.0
MAX_TEXT_CHARS = 8 * 1024 * 1024
_CHARS_PER_UNIT = 100
_ITEMS_PER_UNIT = 10
_STEPS_PER_CHAR = 100
_MAX_INTEGER_BITS = 1024
_MAX_DEPTH = 100
_MAX_FORMATTED_CHARS = 1000
_REFUSED_FORMAT = re.compile(r"%(?:\(|[^a-zA-Z%]*(?:\d{4,}|\*))")
# For each character of the text these may look at all of the argument's.
_SEARCHES = frozenset({"lstrip", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "strip"})

_PLAIN = (int, float, NoneType, Undefined)
_CONTAINERS: tuple[type[Any], ...] = (list, tuple, dict, set, type({}.keys()), type({}.values()), type({}.items()))


class OverBudget(Exception):
    """The template did more than any chat template needs."""


class Budget:
    """What one rendering may still do."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._left = MAX_WORK
        self._now_s = now_s
        self._deadline_s = now_s() + MAX_SECONDS
        self._measured: dict[int, tuple[Any, int, int]] = {}  # by id: containers, which no template can change

    def charge(self, *, num_chars: int = 0, num_items: int = 0) -> None:
        if not 0 <= num_chars <= MAX_TEXT_CHARS:
            raise OverBudget(f"made or walked a text of more than {MAX_TEXT_CHARS} characters")
        self._left -= 1 + num_chars // _CHARS_PER_UNIT + num_items // _ITEMS_PER_UNIT
        if self._left < 0:
            raise OverBudget(f"did more than {MAX_WORK} units of work")
        if self._now_s() > self._deadline_s:
            raise OverBudget(f"ran for more than {MAX_SECONDS:g} s")

    def charge_for(self, value: Any) -> Any:
        """Charge for a value just made, by its own size; what it refers to was charged when that was made."""
        if isinstance(value, str):
            self.charge(num_chars=len(value))
        elif isinstance(value, _CONTAINERS):
            self.text_size(value)
            self.charge(num_items=len(value))
        elif isinstance(value, int) and value.bit_length() > _MAX_INTEGER_BITS:
            raise OverBudget(f"computed with integers of more than {_MAX_INTEGER_BITS} bits")
        else:
            self.charge()
        return value

    def charge_walk(self, value: Any) -> Any:
        """Charge for all that a value holds, before something walks it; a generator becomes the list of its values."""
        if isinstance(value, str):
            if len(value) >= _CHARS_PER_UNIT:
                self.charge(num_chars=len(value))
        elif not isinstance(value, _PLAIN):
            value = list(value) if isinstance(value, Iterator) else value
            if isinstance(value, _CONTAINERS):
                self.charge_text_of(value)
        return value

    def charge_text_of(self, value: Any) -> None:
        """Charge for the text that writing the value out will make."""
        self.charge(num_chars=self.text_size(value))

    def text_size(self, value: Any) -> int:
        """The length of the value's text, and so of the walk over all it holds."""
        return len(value) if isinstance(value, str) else self._measure(value)[0]

    def _measure(self, value: Any) -> tuple[int, int]:
        """The same of what is no text, and how deep it is nested: C code that walks too deep ends the process."""
        if not isinstance(value, _CONTAINERS):  # macros have a text too, which holds their name
            return (len(str(value)) if isinstance(value, _PLAIN) else MAX_SOURCE_CHARS), 0
        if id(value) in self._measured:
            _, size, depth = self._measured[id(value)]
            return size, depth
        size, depth = 2, 0
        for part in [*value, *value.values()] if isinstance(value, dict) else value:
            part_size, part_depth = (len(part), 0) if isinstance(part, str) else self._measure(part)
            size += 2 + part_size
            depth = max(depth, 1 + part_depth)
            if size > MAX_TEXT_CHARS:
                raise OverBudget(f"made a value whose text has more than {MAX_TEXT_CHARS} characters")
        if depth > _MAX_DEPTH:
            raise OverBudget(f"nested values more than {_MAX_DEPTH} deep")
        self._measured[id(value)] = value, size, depth  # kept, so that its id stays its own
        return size, depth


current_budget: ContextVar[Budget] = ContextVar("chat_template_budget")


def check_operation(sign: str, left: Any, right: Any) -> None:
    """Refuse `*`, `**` and `%` whose result could be huge. Results of others are no larger than what was paid for."""
    if sign == "+":
        if isinstance(left, str) and isinstance(right, str):
            current_budget.get().charge(num_chars=len(left) + len(right))
    elif sign == "%":
        if isinstance(left, str):
            check_format(left, right)
    elif sign in ("*", "**") and isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * max(right, 1) if sign == "**" else left.bit_length() + right.bit_length()
        if bits > _MAX_INTEGER_BITS:
            raise OverBudget(f"computed with integers of more than {_MAX_INTEGER_BITS} bits")
    elif sign == "*" and not (isinstance(left, int | float) and isinstance(right, int | float)):
        sized, count = (left, right) if isinstance(right, int) else (right, left)
        if not isinstance(sized, str) or not isinstance(count, int):
            raise OverBudget("multiplied something else than numbers, or a text by a number")
        current_budget.get().charge(num_chars=len(sized) * max(count, 0))


def check_format(form: str, values: Any) -> None:
    """Each value can be written but once where none has a name."""
    if _REFUSED_FORMAT.search(form):
        raise OverBudget(f"formatted by name, or with a width of more than three digits: {form[:40]!r}")
    budget = current_budget.get()
    budget.charge(num_chars=len(form) + form.count("%") * _MAX_FORMATTED_CHARS + budget.text_size(values))


def check_arguments(subject: str, method: str, arguments: Sequence[Any]) -> None:
    """Refuse calls of the string methods that can make or do much more than goes in."""
    if method == "replace" and len(arguments) >= 2:
        check_replacement(subject, arguments[0], arguments[1])
    elif method == "join" and arguments:
        check_join(arguments[0], subject)
    elif method in _SEARCHES:
        num_steps = len(subject) * sum(len(argument) for argument in arguments if isinstance(argument, str))
        current_budget.get().charge(num_chars=num_steps // _STEPS_PER_CHAR)


def check_replacement(subject: str, old: Any, new: Any) -> None:
    if isinstance(old, str) and isinstance(new, str):
        current_budget.get().charge(num_chars=len(subject) + subject.count(old) * len(new))


def check_join(parts: Sequence[Any], separator: str) -> None:
    budget = current_budget.get()
    budget.charge(num_chars=len(parts) * len(separator) + sum(map(budget.text_size, parts)))
