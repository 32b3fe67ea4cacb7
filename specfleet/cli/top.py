"""`specfleet top`: the fleet while it works."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from specfleet.admin import Admin
from specfleet.cli.options import DEFAULT_ADDRESS, Address, ApiKeyFile, Fleet, TlsOption
from specfleet.cli.reporting import error_line
from specfleet.cli.screen import printable, screen
from specfleet.cli.views import drafters_table, headline, rounds_chart, verifier_table
from specfleet.errors import DeadlineExceeded, Unavailable
from specfleet.v1 import admin_pb2 as pb

__all__ = ["top"]

_WINDOW = 15  # frames that "recent" reaches back
_HISTORY = 60  # frames in the curve of tokens per second


def top(
    every_s: Annotated[float, typer.Option("--every", min=0.1, help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="One frame, and end.")] = False,
    address: Address = DEFAULT_ADDRESS,
    api_key_file: ApiKeyFile = None,
    tls: TlsOption = None,
) -> None:
    """Watch the fleet work; q or Ctrl-C ends. Acceptance and rounds are those of the last seconds."""
    console, watched = screen(), _Watched()
    with Admin(**Fleet(address, api_key_file, tls).arguments(), timeout_s=10.0) as admin:
        watched.add(admin.status())
        if once or not console.is_terminal:
            console.print(watched.frame(console.width))
            return
        with (
            _keys() as pressed,
            Live(watched.frame(console.width), console=console, screen=True, auto_refresh=False) as live,
        ):
            while pressed(every_s) != "q":
                watched.look(admin)
                live.update(watched.frame(console.width), refresh=True)


class _Watched:
    """The last looks at the fleet, and what they add up to."""

    def __init__(self) -> None:
        self._recent: deque[pb.StatusResponse] = deque(maxlen=_WINDOW)
        self._rates: deque[float] = deque(maxlen=_HISTORY)
        self._trouble = ""

    def look(self, admin: Admin) -> None:
        """A fleet that is away for a while, or hangs, is no reason to stop watching."""
        try:
            self.add(admin.status())
            self._trouble = ""
        except (Unavailable, DeadlineExceeded) as error:
            self._trouble = error_line(error)

    def add(self, status: pb.StatusResponse) -> None:
        if self._recent and status.num_rounds < self._recent[-1].num_rounds:
            self._recent.clear()  # a router that began anew counts from nothing
        self._recent.append(status)
        self._rates.append(status.tokens_per_s)

    def frame(self, width: int) -> RenderableType:
        now = self._recent[-1]
        before = self._recent[0] if len(self._recent) > 1 else pb.StatusResponse()
        rounds = {
            size: number - before.rounds_by_frontier.get(size, 0) for size, number in now.rounds_by_frontier.items()
        }
        parts: list[RenderableType] = [headline(now)]
        if len(self._rates) > 1:
            parts += [Text(f"tokens/s {_curve(self._rates)}", style="cyan")]
        parts += [Text()]
        parts += [verifier_table(now.verifier), Text()]
        parts += [
            drafters_table(now.drafters, {drafter.name: drafter for drafter in before.drafters}, width=width),
            Text(),
        ]
        parts += [rounds_chart(rounds)]
        if self._trouble:
            parts += [Text(), Text(printable(self._trouble), style="bold red")]
        return Group(*parts)


def _curve(rates: deque[float]) -> str:
    """Tokens per second over time, as high as the line allows."""
    most = max(rates)
    return "".join(" ▁▂▃▄▅▆▇█"[round(8 * rate / most) if most > 0.0 else 0] for rate in rates)


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Waits for a key for so many seconds; the empty key where none came. No Enter is needed."""
    try:
        import select
        import termios
        import tty

        settings = termios.tcgetattr(sys.stdin)
    except (ImportError, OSError, ValueError, termios.error):  # no terminal to read keys from
        yield _wait
        return

    def pressed(for_s: float) -> str:
        ready, _, _ = select.select([sys.stdin], [], [], for_s)
        return sys.stdin.read(1) if ready else ""

    tty.setcbreak(sys.stdin)
    try:
        yield pressed
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, settings)


def _wait(for_s: float) -> str:
    time.sleep(for_s)
    return ""
