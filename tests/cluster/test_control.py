"""The socket on which a running fleet takes orders."""

from __future__ import annotations

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

import pytest

from cluster import control
from cluster.control import Command, commands, order
from contracts.errors import NotFound, Unavailable


def answer_next(arrived: SimpleQueue[Command], answer: str | Exception) -> tuple[threading.Thread, list[Command]]:
    """Someone who carries out one command."""
    seen = list[Command]()

    def carry_out() -> None:
        seen.append(arrived.get(timeout=30))
        if isinstance(answer, str):
            seen[0].answer.set_result(answer)
        else:
            seen[0].answer.set_exception(answer)

    thread = threading.Thread(target=carry_out)
    thread.start()
    return thread, seen


def test_an_order_arrives_whole_and_its_answer_comes_back(tmp_path: Path) -> None:
    with commands(tmp_path / "socket") as arrived:
        thread, seen = answer_next(arrived, "ünd so")
        config = {"kind": "model", "engine": {"model": "x" * 10_000}}
        assert order(tmp_path / "socket", "add-drafter", name="sql", config=config, patience_s=30) == "ünd so"
        thread.join()
        assert (seen[0].do, seen[0].name, seen[0].config) == ("add-drafter", "sql", config)


def test_a_refusal_comes_back_as_what_it_is(tmp_path: Path) -> None:
    with commands(tmp_path / "socket") as arrived:
        thread, _ = answer_next(arrived, NotFound("the fleet has no drafter 'x'"))
        with pytest.raises(Unavailable, match="the fleet refused to remove-drafter x: the fleet has no drafter 'x'"):
            order(tmp_path / "socket", "remove-drafter", name="x", patience_s=30)
        thread.join()


def test_who_waits_when_the_fleet_ends_is_told(tmp_path: Path) -> None:
    refused = list[Exception]()

    def ask() -> None:
        try:
            order(tmp_path / "socket", "add-drafter", name="x", patience_s=30)
        except Unavailable as error:
            refused.append(error)

    with commands(tmp_path / "socket") as arrived:
        thread = threading.Thread(target=ask)
        thread.start()
        arrived.get(timeout=30)
    thread.join()
    assert "the fleet is ending" in str(refused[0])


def test_a_fleet_that_ends_waits_for_nobody_who_has_said_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_READ_S", 30.0)
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as slow, ThreadPoolExecutor() as threads:
        slow.settimeout(30)

        def say_rest() -> None:
            while is_open(path):  # it closes when it has told all that it knows of
                pass
            slow.sendall(b'"name": "x", "config": null}\n')

        with commands(path):
            slow.connect(str(path))
            slow.sendall(b'{"do": "add-drafter", ')
            assert is_open(path), "and who came before is heard"
            threads.submit(say_rest)
        assert "the fleet is ending" in json.loads(slow.makefile("rb").readline())["error"]


def is_open(path: Path) -> bool:
    """Whether somebody is heard there."""
    with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
        connection.settimeout(30)
        connection.connect(str(path))
        connection.sendall(b"\n")
        return bool(connection.recv(1))
    return False


@pytest.mark.parametrize("line", [b"", b"\n", b"[]\n", b'{"do": "down"}\n', b"\xff\xfe\n", b"{" * 5000 + b"\n"])
def test_nonsense_is_answered_and_harms_nobody(tmp_path: Path, line: bytes) -> None:
    with commands(tmp_path / "socket") as arrived:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(str(tmp_path / "socket"))
            connection.sendall(line)
            connection.shutdown(socket.SHUT_WR)
            assert "this is no command" in json.loads(connection.makefile("rb").readline())["error"]
        assert arrived.empty()
        thread, _ = answer_next(arrived, "done")
        assert order(tmp_path / "socket", "down", patience_s=30) == "done"
        thread.join()


def test_a_fleet_that_is_not_there_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="the fleet does not answer at"):
        order(tmp_path / "socket", "down", patience_s=30)
