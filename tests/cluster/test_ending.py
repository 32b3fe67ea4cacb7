"""Signals, ports, and processes that outlive their parents."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.router_face import with_ports
from contracts.config import RouterConfig
from contracts.errors import AlreadyExists, ConfigError
from tests.cluster.running_fleet import CHECKOUT, session_of, until


def started(program: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_asks_and_the_second_kills_all(number: signal.Signals) -> None:
    process = started(
        "import signal, subprocess, time; from cluster.ending import Ending\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # tests may themselves run under nohup
        "ending = Ending(lambda text: print(text, flush=True)); ending.listen()\n"
        "subprocess.Popen(['sh', '-c', 'trap \"\" TERM INT HUP; sleep 1000 & wait']); print('here', flush=True)\n"
        "while True: time.sleep(0.01)"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    until(lambda: len(session_of(process.pid)) == 3, "all are there")
    process.send_signal(number)
    assert process.stdout.readline() == "ending; a second Ctrl-C kills\n"
    assert process.poll() is None
    process.send_signal(number)
    assert process.wait(60) == 130
    process.stdout.close()
    until(lambda: not session_of(process.pid), "all are gone")


def test_a_hangup_that_was_ignored_stays_so() -> None:
    process = started(
        "import signal, time; from cluster.ending import Ending\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN); ending = Ending(lambda text: None); ending.listen()\n"
        "print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, flush=True)"
    )
    assert process.communicate(timeout=60)[0] == "True\n"


def test_orphans_are_ended_too() -> None:
    process = started(
        "import subprocess; from cluster.descendants import adopt_orphans, end_orphans\n"
        "adopt_orphans()\n"
        "subprocess.run(['sh', '-c', '(trap \"\" TERM; sleep 1000) & sleep 0.01 &'])\n"
        "print(len(end_orphans(0.2)))"
    )
    assert int(process.communicate(timeout=60)[0]) in (1, 2)  # sleep may or may not have a shell around it
    assert session_of(process.pid) == {}


def test_a_port_of_zero_becomes_one_that_is_free() -> None:
    made = with_ports(RouterConfig(grpc_port=0, http_port=0))
    assert 0 not in (made.grpc_port, made.http_port)


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AlreadyExists, match=rf"router.http_port is {port} and cannot be had at 127.0.0.1"):
            with_ports(RouterConfig(grpc_port=0, http_port=port))


def test_an_address_of_another_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"router.host is '192.0.2.1': .*; it must be an address of this machine"):
        with_ports(RouterConfig(host="192.0.2.1", grpc_port=0, http_port=0))
