"""The folders of a fleet, and who runs there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.home import Home, Record, running_fleet, state_folder, wait_until_ended
from contracts.errors import AlreadyExists, NotFound
from tests.cluster.running_fleet import CHECKOUT

RECORD = Record(
    pid=os.getpid(), control="/c", grpc="127.0.0.1:1", http="http://127.0.0.1:2", dashboard="", ray="", is_local=True
)


def test_what_runs_is_known_while_it_runs_and_no_longer(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no fleet runs with the state folder"):
        running_fleet(tmp_path)
    with Home(tmp_path) as home:
        home.write(RECORD)
        assert running_fleet(tmp_path) == RECORD
        assert not wait_until_ended(tmp_path, 0.0)
    assert wait_until_ended(tmp_path, 0.0)
    with pytest.raises(NotFound, match="python -m cluster up"):
        running_fleet(tmp_path)


def test_a_second_fleet_is_refused_and_leaves_the_first_alone(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        home.write(RECORD)
        with pytest.raises(AlreadyExists, match=rf"as process {os.getpid()} with gRPC at 127.0.0.1:1 \({tmp_path}/"):
            Home(tmp_path)
        assert running_fleet(tmp_path) == RECORD
    with Home(tmp_path):
        pass


def test_a_fleet_that_was_killed_leaves_no_lock(tmp_path: Path) -> None:
    program = (
        "import os, signal; from pathlib import Path; from cluster.home import Home\n"
        f"home = Home(Path({str(tmp_path)!r})); (home.logs / 'x').write_text('x'); print(home.run, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True)
    run = Path(killed.stdout.strip())
    assert run.is_dir()
    with Home(tmp_path) as home:
        assert home.run != run
    (run / "logs" / "x").unlink()
    (run / "logs").rmdir()
    run.rmdir()


def test_logs_stay_where_something_went_wrong(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        (home.logs / "router.log").write_text("all is well")
    assert not home.run.exists()
    with pytest.raises(OSError, match="disk"), Home(tmp_path) as home:
        raise OSError("disk")
    assert not home.run.exists(), "nothing was said that could help"
    home = Home(tmp_path)
    (home.logs / "router.log").write_text("the disk is full")
    with pytest.raises(OSError, match="disk"), home:
        raise OSError("disk")
    assert (home.logs / "router.log").read_text() == "the disk is full"
    (home.logs / "router.log").unlink()
    home.logs.rmdir()
    home.run.rmdir()


def test_the_state_folder_is_the_users(tmp_path: Path) -> None:
    assert state_folder({"XDG_STATE_HOME": "/somewhere"}) == Path("/somewhere/specfleet")
    assert state_folder({}) == Path.home() / ".local" / "state" / "specfleet"
    with Home(tmp_path / "made" / "when missing") as home:
        assert (home.run.stat().st_mode & 0o777, home.state.stat().st_mode & 0o777) == (0o700, 0o700)
