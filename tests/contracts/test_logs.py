"""Logs for people and for programs."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import pytest

from contracts.errors import ConfigError
from contracts.logs import VARIABLE, is_json, settle_logs


@contextmanager
def settled(process: str) -> Iterator[io.StringIO]:
    """What this process logs; afterwards whoever runs the tests has the loggers as before."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    try:
        settle_logs(process, to=(to := io.StringIO()))
        yield to
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def test_each_line_is_one_object_with_what_it_is_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "json")
    with settled("router") as to:
        log = logging.getLogger("router.front")
        log.info("request %s is accepted\nin two lines", "r1", extra={"request": "r1", "secret": "s"})
        try:
            raise ZeroDivisionError("by zero")
        except ZeroDivisionError:
            log.exception("it failed")
    first, second = map(json.loads, to.getvalue().splitlines())
    assert datetime.fromisoformat(first.pop("time")).tzinfo is not None
    assert first == {
        "level": "INFO",
        "process": "router",
        "logger": "router.front",
        "request": "r1",
        "message": "request r1 is accepted\nin two lines",
    }
    assert second["level"] == "ERROR"
    assert second["exception"].endswith("ZeroDivisionError: by zero")


def test_lines_are_for_people_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with settled("router") as to:
        logging.getLogger("a").warning("well %d", 3)
    assert to.getvalue().endswith(" WARNING a: well 3\n")


def test_another_form_is_refused() -> None:
    with pytest.raises(ConfigError, match="SPECFLEET_LOG is 'xml'; it must be text or json"):
        is_json({VARIABLE: "xml"})
