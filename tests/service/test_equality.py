"""Promise 1 over the wire: the same model and seed give the same text, whatever the mode, the load and the drafters."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import pytest

from benchmarks.generation import Prompt, generate
from contracts.config import DrafterConfig
from contracts.types import SamplingParams, StopParams
from engine.local_group import local_engine
from tests.engine.checkpoints import write_checkpoint
from tests.service.fleet import RunningFleet, engine_of, kept, running_fleet

MODES = ["off", "vanilla", "pearl", "fleet"]
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "then", "it", "went", "home", "to", "eat", "some", "fish"]
MAX_TOKENS = 20
NUM_CHANGES = 6  # by when some have left again
Scene = Callable[[RunningFleet], Coroutine[None, None, None]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("service") / "model", "llama")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model with the same tokenizer."""
    return write_checkpoint(tmp_path_factory.mktemp("service") / "other", "llama", seed=5)


def prompts(count: int) -> list[str]:
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 24))) for _ in range(count)]


def plain(folder: Path, texts: list[str], temperature: float, *, num_ranks: int = 1) -> list[list[int]]:
    """What the engine says by itself; prompt i has seed i."""
    expected = []
    with local_engine(engine_of(folder, tensor_parallel=num_ranks)) as loaded:
        for seed, text in enumerate(texts):
            sampling = SamplingParams(temperature=temperature, seed=seed)
            stop = StopParams(max_tokens=MAX_TOKENS, ignore_eos=True)
            (generated,), _ = generate(loaded, [Prompt(id=str(seed), prompt=text)], sampling, stop)
            expected.append(generated.token_ids)
    return expected


def drafters(folder: Path, other: Path) -> dict[str, DrafterConfig]:
    return {
        "twin": DrafterConfig(kind="model", engine=engine_of(folder)),
        "stranger": DrafterConfig(kind="model", engine=engine_of(other)),
        "lookup": DrafterConfig(kind="prompt_lookup"),
        "recycling": DrafterConfig(kind="recycling"),
    }


@pytest.fixture(scope="module")
def play(folder: Path, other: Path) -> Iterator[Callable[[Scene], None]]:
    """Plays scenes to one fleet with all drafters, one after another."""
    with kept(running_fleet(engine_of(folder), drafters(folder, other))) as (runner, fleet):
        yield lambda scene: runner.run(scene(fleet))


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_all_modes_at_any_load_give_the_engines_own_text(
    play: Callable[[Scene], None], folder: Path, temperature: float
) -> None:
    texts = prompts(16)
    expected = plain(folder, texts, temperature)

    async def scene(fleet: RunningFleet) -> None:
        for mode in MODES:
            alone = [
                await fleet.say(text, mode=mode, temperature=temperature, seed=seed, max_tokens=MAX_TOKENS)
                for seed, text in enumerate(texts[:4])
            ]
            assert [said.tokens for said in alone] == expected[:4]
            together = await asyncio.gather(
                *(
                    fleet.say(text, mode=mode, temperature=temperature, seed=seed, max_tokens=MAX_TOKENS)
                    for seed, text in enumerate(texts)
                )
            )
            assert [said.tokens for said in together] == expected
            of_twin = await fleet.say(
                texts[0], mode=mode, temperature=temperature, seed=0, max_tokens=MAX_TOKENS, drafters=["twin"]
            )
            assert of_twin.tokens == expected[0]
            guessed = set[str]().union(*(said.drafters for said in [*alone, *together, of_twin])) - {""}
            if mode != "fleet":  # which waits for nobody, and a target as small as this is as quick as its twin
                assert bool(guessed) is (mode != "off"), mode
        assert not fleet.router.scheduler.running
        verifier = fleet.router.scheduler.verifier
        assert verifier is not None
        assert verifier.num_reserved_blocks == 0

    play(scene)


def test_drafters_that_join_and_leave_change_nothing(folder: Path, other: Path) -> None:
    texts = prompts(24)
    expected = plain(folder, texts, 0.8)
    able = drafters(folder, other)
    rng = random.Random(1)
    changes: list[str] = []

    async def churn(fleet: RunningFleet) -> None:
        present: set[str] = set()
        while True:
            name = rng.choice(list(able))
            if name in present:
                await fleet.remove(name)
            else:
                await fleet.add_drafter(name, able[name])
            present ^= {name}
            changes.append(name)

    async def scene() -> None:
        async with running_fleet(engine_of(folder), {}) as fleet:
            churning = asyncio.create_task(churn(fleet))
            while len(changes) < NUM_CHANGES:
                said = await asyncio.gather(
                    *(
                        fleet.say(text, mode=MODES[seed % 4], temperature=0.8, seed=seed, max_tokens=MAX_TOKENS)
                        for seed, text in enumerate(texts)
                    )
                )
                assert [each.tokens for each in said] == expected
                assert not churning.done(), "it ends with an error alone"
            churning.cancel()
            await asyncio.gather(churning, return_exceptions=True)

    asyncio.run(scene())


def test_two_ranks_serve_as_the_engine_with_two_ranks_does(folder: Path, other: Path) -> None:
    texts = prompts(6)
    expected = plain(folder, texts, 0.8, num_ranks=2)

    async def scene() -> None:
        one = {"twin": DrafterConfig(kind="model", engine=engine_of(folder))}
        async with running_fleet(engine_of(folder, tensor_parallel=2), one) as fleet:
            said = await asyncio.gather(
                *(
                    fleet.say(text, mode=MODES[seed % 4], temperature=0.8, seed=seed, max_tokens=MAX_TOKENS)
                    for seed, text in enumerate(texts)
                )
            )
            assert [each.tokens for each in said] == expected
            assert any(each.drafters - {""} for each in said), "there were drafts to verify"

    asyncio.run(scene())
