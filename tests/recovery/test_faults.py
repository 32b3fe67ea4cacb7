"""Whatever dies, hangs or crawls: every accepted request ends with exactly the tokens it would have had."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.engine.checkpoints import write_checkpoint
from tests.recovery.disk import small_disk
from tests.recovery.faults import FAULTS, NEED_A_DISK
from tests.recovery.fleet import HarmedFleet, harmed_fleet
from tests.recovery.scene import Outcome, Request, check, expected_answers, requests, table, undergo
from tests.router.valkey import valkey
from tests.service.fleet import engine_of

OUTCOMES: dict[str, tuple[str, Outcome]] = {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("recovery") / "tiny", "llama", max_position_embeddings=2048)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    """One event loop for all tests of this file, in which the fleet lives."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def answers(folder: Path) -> tuple[Sequence[Request], Sequence[Sequence[int]]]:
    wanted = requests()
    return wanted, expected_answers(engine_of(folder, tensor_parallel=2), wanted)


@pytest.fixture(scope="module")
def fleet(folder: Path, loop: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HarmedFleet]:
    home = tmp_path_factory.mktemp("fleet")
    with small_disk(home / "store") as disk, valkey(disk, {"appendonly": "yes", "appendfsync": "everysec"}) as store:
        living = harmed_fleet(home, engine_of(folder, tensor_parallel=2), engine_of(folder), store)
        yield loop.run(living.__aenter__())
        loop.run(living.__aexit__(None, None, None))
    print("\n" + table(OUTCOMES))


@pytest.mark.parametrize("name", FAULTS)
def test_every_request_ends_as_if_nothing_had_happened(
    name: str,
    fleet: HarmedFleet,
    loop: asyncio.Runner,
    answers: tuple[Sequence[Request], Sequence[Sequence[int]]],
) -> None:
    if name in NEED_A_DISK and not fleet.store.folder.is_mount():
        pytest.skip("a disk that can be filled is made by mounting one, which needs root")
    fault, num_restarts = FAULTS[name], fleet.num_restarts
    outcome = loop.run(undergo(fleet, fault, *answers, name.replace(" ", "-")))
    OUTCOMES[name] = fault.how, outcome
    check(outcome)
    assert fleet.num_restarts - num_restarts >= fault.num_restarts
