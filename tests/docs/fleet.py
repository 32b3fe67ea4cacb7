"""One fleet for all commands of the pages: that of fleet.yaml, with some of its drafters, at ports of its own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from contracts.config import load_config
from tests.docs.pages import CHECKOUT, Block
from tests.service.fleet import running_fleet

_DRAFTERS = ("general", "prompt_lookup", "recycling")
_PATIENCE_S = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DocsFleet:
    """Where it is."""

    grpc: str
    http: str

    def run(self, block: Block, folder: Path) -> None:
        """Does what a reader would do, in a folder that looks like the checkout."""
        text = block.commands.replace("127.0.0.1:50051", self.grpc).replace("localhost:8000", self.http)
        programs = Path(sys.executable).parent
        text = text.replace(".venv/bin/", f"{programs}/")
        command = ["bash", "-euo", "pipefail", "-c"] if block.language == "bash" else [sys.executable, "-c"]
        done = subprocess.run(
            [*command, text],
            cwd=folder,
            env={
                **os.environ,
                "PATH": f"{programs}:{os.environ['PATH']}",
                "SPECFLEET_ADDRESS": self.grpc,
                "OMP_NUM_THREADS": "1",
                "NO_PROXY": "*",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
        )
        assert done.returncode == 0, f"{block.name} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"


@contextmanager
def docs_fleet() -> Iterator[DocsFleet]:
    """It runs in a thread of this process, which has the model library loaded."""
    config = load_config(CHECKOUT / "fleet.yaml")
    target = config.engine.model_copy(update={"model": str(CHECKOUT / config.engine.model), "num_threads": 1})
    drafters = {
        name: of.model_copy(
            update={"engine": of.engine and of.engine.model_copy(update={"model": str(CHECKOUT / of.engine.model)})}
        )
        for name, of in config.drafters.items()
        if name in _DRAFTERS
    }
    found, ready, stop = list[DocsFleet](), threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with running_fleet(target, drafters) as fleet:
            found.append(DocsFleet(grpc=fleet.address, http=f"localhost:{fleet.http_port}"))
            ready.set()
            await stop.wait()

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(serve())
        finally:
            ready.set()  # whoever waits is not left waiting

    thread = threading.Thread(target=run, name="docs-fleet")
    thread.start()
    try:
        assert ready.wait(_PATIENCE_S)
        assert found, "the fleet did not start; its thread says why"
        yield found[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def like_the_checkout(folder: Path) -> Path:
    """Everything of the checkout by links, but where products go, so that what commands write stays here."""
    for entry in CHECKOUT.iterdir():
        if entry.name != "build":
            (folder / entry.name).symlink_to(entry)
    return folder
