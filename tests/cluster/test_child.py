"""Processes beside the command: started, started again, ended, and gone when their supervisor is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from cluster.child import Child
from cluster.descendants import descendants
from contracts.clock import SystemClock, VirtualClock
from tests.cluster.running_fleet import CHECKOUT, session_of, until

SAYS_AND_STAYS = ["sh", "-c", "echo here; exec sleep 1000"]
SAYS_AND_ENDS = ["sh", "-c", "echo first; echo the port is taken; exit 3"]


def child(tmp_path: Path, command: list[str], clock: VirtualClock) -> Child:
    return Child("helper", command, folder=CHECKOUT, log=tmp_path / "log", clock=clock)


def test_it_is_started_again_when_its_time_has_come(tmp_path: Path) -> None:
    clock = VirtualClock(start_s=100.0)
    helper = child(tmp_path, SAYS_AND_ENDS, clock)
    helper.start()
    for delay_s in (0.5, 1.0, 2.0):
        until(lambda: helper.ended() is not None, "it ends")
        assert helper.watch() == f"helper ended with status 3: the port is taken; starts again in {delay_s} s"
        before = helper.pid
        assert helper.watch() == ""
        clock.advance(delay_s)
        assert helper.watch() == f"helper started again as process {helper.pid}"
        assert helper.pid != before
    helper.stop(30.0)


def test_of_a_long_log_the_last_line_is_told(tmp_path: Path) -> None:
    helper = child(tmp_path, SAYS_AND_ENDS, VirtualClock())
    helper.log.write_text("said before\n" * 1000 + "the port is taken\n\n")
    assert helper.last_words() == "the port is taken"


def test_one_that_runs_is_left_alone_and_ends_when_told(tmp_path: Path) -> None:
    helper = child(tmp_path, SAYS_AND_STAYS, VirtualClock())
    helper.start()
    until(lambda: (tmp_path / "log").read_text(), "it speaks")
    assert (helper.watch(), helper.ended()) == ("", None)
    assert os.getpgid(helper.pid) == helper.pid, "Ctrl-C in a terminal is not for it"
    helper.stop(30.0)
    assert helper.ended() == -signal.SIGTERM


def test_one_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    helper = child(tmp_path, ["sh", "-c", "trap '' TERM; echo here; while :; do sleep 1000; done"], VirtualClock())
    helper.start()
    until(lambda: (tmp_path / "log").read_text(), "it speaks")
    sleeping = descendants(helper.pid)
    helper.stop(0.05)
    assert helper.ended() == -signal.SIGKILL
    for pid in sleeping:
        os.kill(pid, signal.SIGKILL)


def test_a_command_that_does_not_exist_is_an_end_like_others(tmp_path: Path) -> None:
    helper = child(tmp_path, ["no-such-program"], VirtualClock())
    helper.start()
    until(lambda: helper.ended() is not None, "it ends")
    assert "no-such-program cannot be started: No such file or directory; starts again" in helper.watch()


def test_it_ends_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import time; from pathlib import Path; from cluster.child import Child\n"
        "from contracts.clock import SystemClock\n"
        f"c = Child('c', {SAYS_AND_STAYS!r}, folder=Path({str(CHECKOUT)!r}), log=Path({str(tmp_path / 'log')!r}), "
        "clock=SystemClock())\n"
        "c.start(); time.sleep(1000)"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", program], cwd=CHECKOUT, start_new_session=True)
    log = tmp_path / "log"
    until(lambda: log.exists() and log.read_text(), "the child speaks")
    assert len(session_of(supervisor.pid)) == 2
    supervisor.kill()
    supervisor.wait()
    until(lambda: not session_of(supervisor.pid), "the child ends")


def test_the_clock_of_the_system_will_do(tmp_path: Path) -> None:
    helper = Child("helper", ["true"], folder=CHECKOUT, log=tmp_path / "log", clock=SystemClock())
    helper.start()
    until(lambda: helper.ended() == 0, "it ends")
    assert helper.watch() == "helper ended with status 0: it said nothing; starts again in 0.5 s"
