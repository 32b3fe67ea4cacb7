"""The embedded store: its data outlive it, and never have two servers."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import redis

from cluster.child import Child
from cluster.store import answers, embedded_store, embedded_url
from contracts.clock import SystemClock
from tests.cluster.running_fleet import until


def store(run: Path, data: Path) -> Child:
    run.mkdir(exist_ok=True)
    return embedded_store(run, data, log=run / "store.log", clock=SystemClock())


def holds(pid: int, file: Path) -> bool:
    return any(os.path.realpath(each) == str(file) for each in Path(f"/proc/{pid}/fd").iterdir())


def test_a_fleet_started_again_at_once_waits_for_what_is_left_of_its_store(tmp_path: Path) -> None:
    data, before, after = tmp_path / "data", tmp_path / "before", tmp_path / "after"
    first, second = store(before, data), store(after, data)
    first.start()
    try:
        until(lambda: answers(embedded_url(before)), "the first answers")
        with redis.Redis.from_url(embedded_url(before)) as client:
            client.set("said", "once")
        os.kill(first.pid, signal.SIGSTOP)  # a disk that hangs, and a supervisor that was killed
        second.start()
        until(lambda: holds(second.pid, data / "in-use"), "the second asks for the data")
        assert "cluster.tied" in Path(f"/proc/{second.pid}/cmdline").read_text(), "and waits for them"
        assert not answers(embedded_url(after))
        os.kill(first.pid, signal.SIGKILL)
        until(lambda: answers(embedded_url(after)), "the second answers when the first is gone")
        with redis.Redis.from_url(embedded_url(after)) as client:
            assert client.get("said") == b"once"
    finally:
        first.stop(0.1)
        second.stop(30.0)
