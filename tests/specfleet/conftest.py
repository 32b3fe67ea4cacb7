"""A scripted fleet for every test here, and both clients behind one face."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from specfleet import AsyncClient, Client, TokenEvent
from specfleet.cli.app import app
from tests.security.certificates import make
from tests.specfleet.scripted_fleet import ScriptedFleet, ServerThread, running_fleet

Ask = Callable[..., list[TokenEvent]]


@pytest.fixture(scope="session")
def running() -> Iterator[tuple[ScriptedFleet, ServerThread]]:
    with running_fleet() as fleet_and_thread:
        yield fleet_and_thread


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of every role."""
    return make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def fleet(running: tuple[ScriptedFleet, ServerThread]) -> ScriptedFleet:
    running[0].reset()
    return running[0]


@pytest.fixture
def thread(running: tuple[ScriptedFleet, ServerThread]) -> ServerThread:
    return running[1]


@pytest.fixture(params=["blocking", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """All events of one request, from either client: `ask(address, prompt, client options as a dict, **options)`."""

    def blocking(address: str, prompt: Any = "Hello", client: dict[str, Any] | None = None, **options: Any) -> Any:
        with Client(address, **(client or {})) as asking:
            return list(asking.generate(prompt, **options))

    def awaiting(address: str, prompt: Any = "Hello", client: dict[str, Any] | None = None, **options: Any) -> Any:
        async def collect() -> list[TokenEvent]:
            async with AsyncClient(address, **(client or {})) as asking:
                return [event async for event in asking.generate(prompt, **options)]

        return asyncio.run(collect())

    return blocking if request.param == "blocking" else awaiting


@pytest.fixture
def cli(fleet: ScriptedFleet) -> Callable[..., Result]:
    """Runs a command against the scripted fleet: `cli("status", "--json")`."""

    def run(*arguments: str, stdin: str | bytes = "", address: str | None = None) -> Result:
        return CliRunner().invoke(
            app, arguments, input=stdin, env={"SPECFLEET_ADDRESS": fleet.address if address is None else address}
        )

    return run
