"""Links between machines are cut and healed in the midst of requests: to each end like the loss of the other one."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.engine.checkpoints import write_checkpoint
from tests.recovery.scene import Outcome, check, expected_answers, requests, table
from tests.service.fleet import engine_of
from tests.service.machines import Machine, network
from tests.service.router_process import until

pytestmark = pytest.mark.timeout(300)

PATIENCE_S = 150.0
CUT_S = 9.0  # longer than it takes to notice that a peer answers no more
PORT = 50051
DRAFTERS = ("twin", "lookup")
OUTCOMES: dict[str, tuple[str, Outcome]] = {}


@dataclass(frozen=True, kw_only=True)
class Linked:
    """A router that is reached by a cable only, and the others, each with a cable of its own."""

    router: Machine
    others: Mapping[str, Machine]
    folder: Path

    async def survive(self, whose: str) -> Outcome:
        """All requests, and what becomes of them when this cable is pulled for a while."""
        harmed, log = self.folder / f"{whose}-healed", self.folder / f"{whose}.log"
        asker = (
            *("tests.cluster.asker", f"{self.router.address}:{PORT}", f"cut-{whose}"),
            *(str(self.folder / "expected.json"), str(harmed)),
        )
        async with self.others["clients"].running(log, *asker) as asking, asyncio.timeout(PATIENCE_S):
            assert asking.stdout is not None
            assert await asking.stdout.readline() == b"begun\n", log.read_text()
            self.others[whose].pull_cable()
            await asyncio.sleep(CUT_S)
            self.others[whose].plug_cable()
            harmed.touch()
            said = await asking.stdout.read()
            assert await asking.wait() == 0, log.read_text()
        return Outcome(**json.loads(said.splitlines()[-1]))


@contextlib.asynccontextmanager
async def linked(folder: Path) -> AsyncIterator[Linked]:
    model = write_checkpoint(folder / "tiny", "llama", max_position_embeddings=2048)
    engine = engine_of(model)
    (folder / "expected.json").write_text(json.dumps(expected_answers(engine, requests())))
    settings = engine.model_dump(mode="json", exclude_defaults=True)
    with network() as net:
        router, others = net.machine(), {name: net.machine() for name in ("verifier", "drafters", "clients")}
        fleet = {
            "engine": settings,
            "drafters": {"twin": {"kind": "model", "engine": settings}, "lookup": {"kind": "prompt_lookup"}},
            "router": {"host": router.address, "grpc_port": PORT, "http_port": 8000, "drafting": "always"},
            "store": {"url": "memory"},
            "security": {"insecure": True},
        }
        file, log = folder / "fleet.yaml", folder / "router.log"
        file.write_text(json.dumps(fleet))  # which is YAML
        of = ("--config", str(file))
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(router.running(log, "router", *of))
            verifier = others["verifier"].running(folder / "verifier.log", "workers.verifier", *of)
            await stack.enter_async_context(verifier)
            for name in DRAFTERS:
                drafter = others["drafters"].running(folder / f"{name}.log", "workers.drafter", *of, "--name", name)
                await stack.enter_async_context(drafter)
            await until(
                lambda: all(f"{name} joined" in log.read_text() for name in ("verifier", *DRAFTERS)), "all have joined"
            )
            yield Linked(router=router, others=others, folder=folder)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    """One event loop for all tests of this file, in which the programs live."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def fleet(loop: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Linked]:
    living = linked(tmp_path_factory.mktemp("links"))
    yield loop.run(living.__aenter__())
    loop.run(living.__aexit__(None, None, None))
    print("\n" + table(OUTCOMES))


@pytest.mark.parametrize("whose", ["verifier", "drafters", "clients"])
def test_every_request_ends_as_if_no_link_had_been_cut(whose: str, fleet: Linked, loop: asyncio.Runner) -> None:
    outcome = loop.run(fleet.survive(whose))
    OUTCOMES[f"link between the router and the {whose}"] = f"its cable pulled for {CUT_S:.0f} s", outcome
    check(outcome)
    left = (fleet.folder / "router.log").read_text()
    assert whose == "clients" or f"{'verifier' if whose == 'verifier' else 'twin'} left" in left, "it was noticed"
