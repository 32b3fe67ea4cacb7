"""What all screens share: where they are written, how numbers look, and what must not reach a terminal."""

from __future__ import annotations

import re
import sys
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

__all__ = ["bar", "console", "count", "duration", "notices", "percent", "printable", "screen", "table"]

_WIDTH_OF_FILES = 160  # a file has no width: wide enough that no cell is cut


def screen() -> Console:
    """Standard output; without colours where it is no terminal."""
    return console(width=None if sys.stdout.isatty() else _WIDTH_OF_FILES)


def notices() -> Console:
    """Standard error, for what is not the answer itself."""
    return console(stderr=True, width=None if sys.stderr.isatty() else _WIDTH_OF_FILES)


def console(**settings: Any) -> Console:
    """One that shows text as it is: brackets, as in a model's or a device's name, are no markup, colons no emoji."""
    return Console(markup=False, emoji=False, highlight=False, **settings)


def printable(text: str) -> str:
    """Text without control characters: what a model or a server says must not steer the reader's terminal."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", text)


def table(*columns: str, numbers: frozenset[str] = frozenset()) -> Table:
    """A table with a line under its head only; columns in `numbers` stand to the right."""
    made = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in numbers else "left", no_wrap=True)
    return made


def duration(seconds: float) -> str:
    """In the unit that people would use."""
    if seconds == 0.0:
        return "0 s"
    if seconds < 1e-3:
        return f"{1e6 * seconds:.0f} µs"
    if seconds < 0.9995:  # what is 1 when rounded is a second
        return f"{1e3 * seconds:.3g} ms"
    if seconds < 60.0:
        return f"{seconds:.3g} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min {int(seconds % 60)} s"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} days {hours % 24} h"


def count(number: float) -> str:
    """Large counts in thousands, millions, billions or trillions."""
    for unit, size in ((" T", 1e12), (" G", 1e9), (" M", 1e6)):
        if number >= 0.9995 * size:  # what is 1 when rounded
            return f"{number / size:.3g}{unit}"
    return f"{number / 1e3:.3g} k" if number >= 1e4 else f"{number:.0f}"


def percent(share: float) -> str:
    return f"{100.0 * share:.0f} %"


def bar(share: float, width: int) -> str:
    """A bar of up to `width` characters, drawn in eighths."""
    eighths = round(8 * width * min(max(share, 0.0), 1.0))
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]
