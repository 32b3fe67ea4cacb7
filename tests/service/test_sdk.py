"""The published client against a real fleet: what README promises."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from contracts.config import DrafterConfig
from specfleet import AsyncClient, Client
from tests.engine.checkpoints import write_checkpoint
from tests.service.fleet import engine_of, running_fleet


def test_both_clients_stream_typed_events_with_who_guessed(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "tiny", "llama")

    async def scene() -> None:
        drafters = {"twin": DrafterConfig(kind="model", engine=engine_of(folder))}
        async with running_fleet(engine_of(folder), drafters) as fleet:
            expected = (await fleet.say("the cat", temperature=0.8, seed=7, max_tokens=20)).tokens
            options: dict[str, Any] = {
                "max_tokens": 20,
                "temperature": 0.8,
                "seed": 7,
                "ignore_eos": True,
                "mode": "vanilla",
            }
            async with AsyncClient(fleet.address) as client:
                (model,) = await client.list_models()
                assert model.drafters == ("twin",)
                events = [event async for event in client.generate("the cat", **options)]
            assert [event.token_id for event in events] == expected
            assert [event.index for event in events] == list(range(20))
            assert "twin" in {event.drafter for event in events}
            assert events[-1].usage is not None
            assert events[-1].usage.num_completion_tokens == 20
            assert events[-1].statistics is not None
            assert events[-1].statistics.num_rounds < 20

            def blocking() -> list[int | None]:
                with Client(fleet.address) as client:
                    return [event.token_id for event in client.generate("the cat", **options)]

            assert await asyncio.to_thread(blocking) == expected

    asyncio.run(scene())
