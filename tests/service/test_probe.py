"""A drafter that joins is tried on a short text: a good one is known as such, a useless one is warned about."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from contracts.config import DrafterConfig
from contracts.types import DrafterId
from tests.engine.checkpoints import write_checkpoint
from tests.service.fleet import engine_of, running_fleet


def test_acceptance_is_known_and_a_useless_drafter_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    target = write_checkpoint(tmp_path / "target", "llama")
    stranger = write_checkpoint(tmp_path / "stranger", "llama", seed=9)

    async def scene() -> None:
        drafters = {
            "twin": DrafterConfig(kind="model", engine=engine_of(target)),
            "stranger": DrafterConfig(kind="model", engine=engine_of(stranger)),
            "lookup": DrafterConfig(kind="prompt_lookup"),
        }
        async with running_fleet(engine_of(target), drafters) as fleet:
            acceptance = fleet.router.fleet.probes.acceptance
            async with asyncio.timeout(60):
                while len(acceptance) < 2:  # noqa: ASYNC110  # results are kept, not announced
                    await asyncio.sleep(0.01)
            assert acceptance[DrafterId("twin")] == 1.0
            assert acceptance[DrafterId("stranger")] < 0.05
            assert (await fleet.say("the cat", max_tokens=4)).tokens

    with caplog.at_level(logging.WARNING):
        asyncio.run(scene())
    warnings = [record.getMessage() for record in caplog.records if "below the floor" in record.getMessage()]
    assert len(warnings) == 1
    assert "stranger" in warnings[0]
