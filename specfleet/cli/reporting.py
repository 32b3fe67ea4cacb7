"""How commands fail: one clear line, and an exit code that scripts can rely on."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import NoReturn, ParamSpec

import typer

from specfleet.cli.screen import duration, notices, printable
from specfleet.errors import InvalidRequest, SpecfleetClientError

__all__ = ["error_line", "fail", "reporting"]

P = ParamSpec("P")


def reporting(command: Callable[P, None]) -> Callable[P, None]:
    """The command with errors told instead of raised: 2 where the request is wrong, 1 for everything else."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except SpecfleetClientError as error:
            fail(error_line(error), code=2 if isinstance(error, InvalidRequest) else 1)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None

    return wrapped


def error_line(error: SpecfleetClientError) -> str:
    """The message, and when to try again."""
    again = "" if error.retry_after_s is None else f" (try again in {duration(error.retry_after_s)})"
    return f"{error.message}{again}"


def fail(line: str, *, code: int) -> NoReturn:
    """Says why on standard error, and ends the program."""
    notices().print(f"specfleet: {printable(line)}", style="red", soft_wrap=True)
    raise typer.Exit(code)
