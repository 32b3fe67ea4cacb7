"""How every process of a fleet writes its log: lines for people, or a JSON object a line for programs.

SPECFLEET_LOG chooses: `text`, or `json`. A line that is about a request has its id under `request`, and one about a
sequence its number under `sequence`: whoever logs gives them as `extra`. Nothing that a client or the target said is
ever logged, nor a key, nor a password.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TextIO

from contracts.errors import ConfigError, shown

__all__ = ["VARIABLE", "is_json", "settle_logs", "written"]

VARIABLE = "SPECFLEET_LOG"
_FORMS = ("text", "json")
_ABOUT = ("request", "sequence", "worker")
_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def is_json(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether lines are JSON; refused where the variable says something else."""
    form = environment.get(VARIABLE, "") or _FORMS[0]
    if form not in _FORMS:
        raise ConfigError(f"{VARIABLE} is {shown(form)}; it must be {' or '.join(_FORMS)}")
    return form == "json"


def settle_logs(process: str, *, to: TextIO | None = None) -> None:
    """What is logged in this process from now on goes to standard error, or `to`, in the form that was chosen."""
    handler = logging.StreamHandler(to or sys.stderr)
    handler.setFormatter(_Json(process) if is_json() else logging.Formatter(_TEXT))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def written(process: str, level: str, message: str, **about: str) -> str:
    """One line of JSON."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": now, "level": level, "process": process, **about, "message": message})


class _Json(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        about = {"logger": record.name} | {key: str(vars(record)[key]) for key in _ABOUT if key in vars(record)}
        if record.exc_info:
            about["exception"] = self.formatException(record.exc_info)
        return written(self._process, record.levelname, record.getMessage(), **about)
