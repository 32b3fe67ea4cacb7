"""What a Python says that may have an optional peer."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping

from contracts.errors import InvalidArgument

__all__ = ["printed"]


def printed(
    python: str, code: str, *, option: str, name: str, package: str, environment: Mapping[str, str] | None = None
) -> str:
    """The last line that the code prints there: some say more when they are imported. Refused, with what to do, where
    it does not run."""
    env = {**os.environ, **(environment or {})}
    try:
        found = subprocess.run([python, "-c", code], capture_output=True, text=True, env=env)
    except OSError as error:
        raise InvalidArgument(f"{option} is {python}, which does not start ({error.strerror})") from error
    if found.returncode != 0:
        why = _last_line(found.stderr)
        raise InvalidArgument(
            f"{python} has no {name} that can be asked ({why}); install {package} there, or name a Python that has it "
            f"with {option}"
        )
    return _last_line(found.stdout)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it says nothing"])[-1]
