"""Whatever drafts say and in whatever order messages come, the text is the target's own; and nothing is left behind."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product, starmap

import pytest

from contracts.types import DrafterId, SamplingParams, SequenceId
from engine.work import Verify
from router.modes import MODES
from router.orders import DrafterOffer, DrafterOrders
from speculation.drafting import Drafting
from speculation.fusion import FusionKind
from speculation.manner import DraftingWay, Manner
from speculation.ways import WayChoice
from tests.engine.checkpoints import write_checkpoint
from tests.engine.rig import Model, random_tokens
from tests.router.rig import Collected, Fleet, GarbageDrafter, InlineDrafter

SAMPLINGS = [
    SamplingParams(),
    SamplingParams(temperature=0.7, top_p=0.9, seed=3),
    SamplingParams(temperature=1.0, seed=5, repetition_penalty=1.2, presence_penalty=0.3),
]
MAX_TOKENS = 14
Truth = Callable[[Sequence[int]], list[int]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model.load(write_checkpoint(tmp_path_factory.mktemp("router") / "model", "llama"), "float32")


def plain(model: Model, prompt: Sequence[int], sampling: SamplingParams, num_tokens: int = MAX_TOKENS) -> list[int]:
    engine, sequence = model.engine(), SequenceId("plain")
    engine.open(sequence, prompt, sampling)
    for _ in range(num_tokens):
        engine.step([Verify(sequence=sequence)])
    return list(engine.tokens_of(sequence)[len(prompt) :])


def all_plain(model: Model, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    return [plain(model, prompt, SAMPLINGS[index % 3]) for index, prompt in enumerate(prompts)]


def truth_of(prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]]) -> Truth:
    """What comes after a text that began with one of these prompts."""

    def truth(text: Sequence[int]) -> list[int]:
        index = next(index for index, prompt in enumerate(prompts) if list(text[: len(prompt)]) == list(prompt))
        return list(texts[index][len(text) - len(prompts[index]) :])

    return truth


def num_guessed(outputs: Sequence[Collected]) -> int:
    return sum(drafter is not None for output in outputs for drafter in output.guessed_by)


@pytest.mark.parametrize("mode", [*MODES, "fleet-routing", "fleet-budget", "fleet-fusion-run_ahead"])
def test_every_mode_gives_the_targets_own_tokens(model: Model, mode: str) -> None:
    rng, all_outputs = random.Random(mode), list[Collected]()
    for case in range(6):
        prompts = [random_tokens(rng, rng.randint(1, 40)) for _ in range(rng.randint(1, 4))]
        expected = all_plain(model, prompts)
        engine = model.engine()
        num_free = engine.num_free_blocks
        fleet = Fleet(engine, seed=case, max_running=rng.randint(1, 4), is_priced=case % 2 == 1)
        truth = truth_of(prompts, expected)
        for index, name in enumerate(("first", "second")):
            fleet.add(InlineDrafter(GarbageDrafter(name, case + index, truth), name))
        outputs = [
            fleet.submit(str(index), prompt, SAMPLINGS[index % 3], mode=mode, max_tokens=MAX_TOKENS)
            for index, prompt in enumerate(prompts)
        ]
        fleet.run()
        assert [output.tokens for output in outputs] == expected
        fleet.settle()
        assert engine.num_free_blocks == num_free
        assert all(not drafter.drafter.texts for drafter in fleet.drafters.values())  # type: ignore[attr-defined]
        all_outputs += outputs
    assert (num_guessed(all_outputs) > 2 * MAX_TOKENS) is (mode != "off")


def test_changes_of_manner_at_any_moment_change_no_token(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(5)
    monkeypatch.setattr(WayChoice, "now", lambda self, kind, ways: rng.choice(ways))
    used, all_outputs = set[DraftingWay](), list[Collected]()
    for case in range(6):
        prompts = [random_tokens(rng, rng.randint(1, 40)) for _ in range(3)]
        expected = all_plain(model, prompts)
        fleet = Fleet(model.engine(), seed=case, is_priced=True)
        fleet.scheduler.pool.cooperation.num_drafters = 2
        for name in ("first", "second"):
            fleet.add(InlineDrafter(GarbageDrafter(name, case, truth_of(prompts, expected)), name))
        outputs = [
            fleet.submit(str(index), prompt, SAMPLINGS[index % 3], mode="fleet", max_tokens=MAX_TOKENS)
            for index, prompt in enumerate(prompts)
        ]

        def look(fleet: Fleet = fleet) -> None:
            used.update(DraftingWay(each.manner, each.most_drafters) for each in fleet.scheduler.running.values())

        fleet.run(look)
        assert [output.tokens for output in outputs] == expected
        all_outputs += outputs
    drafting = starmap(DraftingWay, product((Manner.IN_TURN, Manner.AHEAD), (1, 2)))
    assert used >= {DraftingWay(Manner.PLAIN), *drafting}
    assert num_guessed(all_outputs) > 2 * MAX_TOKENS


def everyone(draftings: Sequence[Drafting], **_: object) -> None:
    """Routing to all that are there."""
    for drafting in draftings:
        drafting.drafters = tuple(sorted(drafting.members))


@pytest.mark.parametrize("fusion", FusionKind)
def test_drafters_that_work_together_give_the_targets_own_tokens(
    model: Model, fusion: FusionKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, all_outputs = random.Random(str(fusion)), list[Collected]()
    for case in range(8):
        prompts = [random_tokens(rng, rng.randint(1, 40)) for _ in range(2)]
        expected = all_plain(model, prompts)
        truth = truth_of(prompts, expected)
        fleet = Fleet(model.engine(), seed=case, fusion=fusion)
        monkeypatch.setattr(fleet.scheduler.roster, "assign", everyone)
        for name in ("garbage", "knows", "knows too"):
            fleet.add(InlineDrafter(GarbageDrafter(name, case, truth if name != "garbage" else None), name))
        outputs = [
            fleet.submit(str(index), prompt, SAMPLINGS[index % 3], mode="fleet", max_tokens=MAX_TOKENS)
            for index, prompt in enumerate(prompts)
        ]

        def happen(fleet: Fleet = fleet, case: int = case) -> None:
            if rng.random() < 0.03:  # one of those that step together leaves in the middle of it, and comes back
                name = DrafterId("garbage")
                if name in fleet.drafters:
                    fleet.remove(name)
                else:
                    fleet.add(InlineDrafter(GarbageDrafter(name, case), name))

        fleet.run(happen)
        assert [output.tokens for output in outputs] == expected
        all_outputs += outputs
    assert num_guessed(all_outputs) > 8 * MAX_TOKENS / 2


def test_good_drafts_save_rounds_and_are_credited(model: Model) -> None:
    prompt = random_tokens(random.Random(1), 12)
    expected = plain(model, prompt, SAMPLINGS[0])
    rounds = {}
    for mode in MODES:
        fleet = Fleet(model.engine())
        fleet.add(InlineDrafter(GarbageDrafter("knows", 0, lambda text: [*prompt, *expected][len(text) :]), "knows"))
        output = fleet.submit("1", prompt, SAMPLINGS[0], mode=mode, max_tokens=MAX_TOKENS)
        fleet.run()
        assert output.tokens == expected
        rounds[mode] = len(fleet.verifier.num_rows)
        assert (DrafterId("knows") in output.guessed_by) is (mode != "off")
    assert rounds["off"] == MAX_TOKENS
    assert all(rounds[mode] < MAX_TOKENS for mode in MODES if mode != "off")


def test_the_verifier_goes_on_without_being_asked(model: Model) -> None:
    prompts = [random_tokens(random.Random(index), 12) for index in range(3)]
    truths = [plain(model, prompt, SAMPLINGS[0], 40) for prompt in prompts]
    texts = [[*prompt, *truth] for prompt, truth in zip(prompts, truths, strict=True)]

    def truth(text: Sequence[int]) -> Sequence[int]:
        return next(whole for whole in texts if whole[: len(text)] == text)[len(text) :]

    for mode, least in (("off", 0.9), ("vanilla", 0.0), ("pearl", 0.1), ("fleet", 0.1)):
        num_unasked = num_rounds = 0
        for seed in range(8):
            fleet = Fleet(model.engine(), seed=seed)
            fleet.add(InlineDrafter(GarbageDrafter("knows", seed, truth), "knows"))
            outputs = [fleet.submit(str(n), p, SAMPLINGS[0], mode=mode, max_tokens=30) for n, p in enumerate(prompts)]
            fleet.run()
            assert [output.tokens for output in outputs] == [truth[:30] for truth in truths]
            num_unasked += fleet.verifier.num_unasked
            num_rounds += fleet.scheduler.figures.num_rounds
        share = num_unasked / num_rounds
        assert share >= least if least else share == 0.0, (mode, share)


class MuteDrafter(InlineDrafter):
    """Its machine hangs: it takes orders and never answers."""

    def send(self, orders: DrafterOrders) -> None:
        pass


def test_a_drafter_that_falls_silent_is_waited_for_once(model: Model) -> None:
    prompts = [random_tokens(random.Random(index), 12) for index in range(3)]
    took_s: dict[str, float] = {}
    for mode in ("off", "vanilla"):
        fleet = Fleet(model.engine())
        fleet.add(MuteDrafter(GarbageDrafter("mute", 0), "mute"))
        outputs = [fleet.submit(str(n), p, SAMPLINGS[0], mode=mode, max_tokens=30) for n, p in enumerate(prompts)]
        fleet.run()
        assert [output.tokens for output in outputs] == [plain(model, p, SAMPLINGS[0], 30) for p in prompts]
        took_s[mode] = fleet.clock.now_s()
    assert took_s["vanilla"] - took_s["off"] < 0.6, "half a second, and that for all of them together"


def test_who_steps_together_with_someone_silent_goes_on_alone(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = random_tokens(random.Random(3), 12)
    text = plain(model, prompt, SAMPLINGS[0], 60)
    whole = [*prompt, *text]
    fleet = Fleet(model.engine(), fusion=FusionKind.EVERY_STEP)
    monkeypatch.setattr(fleet.scheduler.roster, "assign", everyone)
    fleet.add(MuteDrafter(GarbageDrafter("mute", 0), "mute"))
    fleet.add(InlineDrafter(GarbageDrafter("knows", 0, lambda so_far: whole[len(so_far) :]), "knows"))
    output = fleet.submit("1", prompt, SAMPLINGS[0], mode="fleet-run_ahead", max_tokens=60)
    fleet.run()
    assert output.tokens == text
    took_s = fleet.clock.now_s()
    assert took_s < 0.6 + 60 * 0.05, f"it took {took_s:.1f} s: whoever is silent is waited for once"


def test_of_the_last_token_nobody_waits_for_drafts(model: Model) -> None:
    fleet = Fleet(model.engine())
    fleet.add(InlineDrafter(GarbageDrafter("honest", 0), "honest"))
    pool = fleet.scheduler.pool
    blamed: list[SequenceId] = []
    pool.went_without = lambda sequence: blamed.append(sequence.id)  # type: ignore[method-assign]
    for number in range(4):
        fleet.submit(str(number), [1, 2, 3], SAMPLINGS[0], mode="vanilla", max_tokens=6)
        fleet.run()
    assert not blamed


class Boaster(MuteDrafter):
    """And it says that it is the fastest of all."""

    def offer(self) -> DrafterOffer:
        return replace(super().offer(), step_s=1e-6)


def test_who_boasts_and_says_nothing_does_not_keep_sequences_from_others(model: Model) -> None:
    prompts = [random_tokens(random.Random(index), 12) for index in range(4)]
    truths = {tuple(prompt): [*prompt, *plain(model, prompt, SAMPLINGS[0], 60)] for prompt in prompts}

    def truth(text: Sequence[int]) -> Sequence[int]:
        return next(whole for prompt, whole in truths.items() if tuple(text[: len(prompt)]) == prompt)[len(text) :]

    fleet = Fleet(model.engine())
    fleet.add(Boaster(GarbageDrafter("boaster", 0), "boaster"))
    fleet.add(InlineDrafter(GarbageDrafter("knows", 0, truth), "knows"))
    for number, prompt in enumerate(prompts):  # one after the other
        output = fleet.submit(str(number), prompt, SAMPLINGS[0], mode="fleet-fusion", max_tokens=60)
        fleet.run()
        assert output.tokens == truths[tuple(prompt)][len(prompt) :]
    assert sum(drafter == "knows" for drafter in output.guessed_by) > 30


@pytest.mark.parametrize("mode", ["pearl", "fleet"])
def test_who_boasts_and_says_nothing_is_waited_for_once(model: Model, mode: str) -> None:
    prompt = random_tokens(random.Random(3), 12)
    took_s: dict[str, float] = {}
    for each in ("off", mode):
        fleet = Fleet(model.engine())
        fleet.add(Boaster(GarbageDrafter("boaster", 0), "boaster"))
        output = fleet.submit("1", prompt, SAMPLINGS[0], mode=each, max_tokens=60)
        fleet.run()
        assert output.tokens == plain(model, prompt, SAMPLINGS[0], 60)
        took_s[each] = fleet.clock.now_s()
    assert took_s[mode] - took_s["off"] < 0.6


def test_drafters_come_and_go_and_the_verifier_is_lost(model: Model) -> None:
    rng, num_lost, all_outputs = random.Random(7), 0, list[Collected]()
    for case in range(8):
        prompts = [random_tokens(rng, rng.randint(1, 30)) for _ in range(3)]
        expected = all_plain(model, prompts)
        fleet = Fleet(model.engine(), seed=case)
        modes = [rng.choice(list(MODES)) for _ in prompts]
        outputs = [
            fleet.submit(str(index), prompt, SAMPLINGS[index % 3], mode=mode, max_tokens=MAX_TOKENS)
            for index, (prompt, mode) in enumerate(zip(prompts, modes, strict=True))
        ]

        truth = truth_of(prompts, expected)

        def happen(fleet: Fleet = fleet, case: int = case, truth: Truth = truth) -> None:
            nonlocal num_lost
            chance = rng.random()
            if chance < 0.15:
                name = f"garbage{rng.randrange(3)}"
                if DrafterId(name) in fleet.drafters:
                    fleet.remove(DrafterId(name))
                else:
                    fleet.add(InlineDrafter(GarbageDrafter(name, case, truth), name))
            elif chance < 0.2:
                num_lost += 1
                fleet.verifier = type(fleet.verifier)(model.engine(), fleet.clock)
                fleet.scheduler.verifier_left()
                fleet.scheduler.verifier_joined(fleet.verifier.offer(), fleet.verifier)

        fleet.run(happen)
        assert [output.tokens for output in outputs] == expected
        all_outputs += outputs
    assert num_lost >= 8
    assert num_guessed(all_outputs) > 2 * MAX_TOKENS


def test_a_cancelled_sequence_leaves_nothing(model: Model) -> None:
    engine = model.engine()
    num_free = engine.num_free_blocks
    fleet = Fleet(engine)
    fleet.add(InlineDrafter(GarbageDrafter("garbage", 1), "garbage"))
    for index in range(3):
        fleet.submit(str(index), [1, 2, 3], SAMPLINGS[0], mode="fleet", max_tokens=MAX_TOKENS)
    for _ in range(4):
        fleet.scheduler.tick()
        fleet._one_event()
    fleet.scheduler.cancel(SequenceId("1"))
    fleet.outputs[SequenceId("1")].has_ended = True
    fleet.run()
    fleet.settle()
    assert engine.num_free_blocks == num_free
    assert not fleet.scheduler.running


def test_all_may_be_cancelled_while_a_round_is_out(model: Model) -> None:
    fleet = Fleet(model.engine(), is_priced=True)
    fleet.submit("1", [1, 2, 3], SAMPLINGS[0], mode="fleet", max_tokens=MAX_TOKENS)
    scheduler = fleet.scheduler
    while scheduler.figures.num_rounds < 3 or scheduler.is_idle:
        scheduler.tick()
        fleet._one_event()
    scheduler.cancel(SequenceId("1"))
    fleet.settle()
    after = fleet.submit("2", [1, 2, 3], SAMPLINGS[0], mode="fleet", max_tokens=MAX_TOKENS)
    fleet.outputs.pop(SequenceId("1"))
    fleet.run()
    assert after.tokens == plain(model, [1, 2, 3], SAMPLINGS[0])


def test_more_than_the_cache_holds_takes_turns(model: Model) -> None:
    engine = model.engine(num_blocks=8)
    fleet = Fleet(engine)
    outputs = [
        fleet.submit(str(index), [1, 2, 3, index], SAMPLINGS[0], mode="off", max_tokens=MAX_TOKENS)
        for index in range(9)
    ]
    fleet.run()
    assert [output.tokens for output in outputs] == [plain(model, [1, 2, 3, index], SAMPLINGS[0]) for index in range(9)]


def test_what_the_whole_cache_cannot_hold_ends_and_others_go_on(model: Model) -> None:
    fleet = Fleet(model.engine(num_blocks=2))
    large = fleet.submit("large", [1, 2, 3], SAMPLINGS[0], mode="off", max_tokens=60)
    small = fleet.submit("small", [4, 5], SAMPLINGS[0], mode="off", max_tokens=4)
    fleet.run(max_events=200)
    assert large.failure.startswith("OutOfBlocks")
    assert large.tokens == plain(model, [1, 2, 3], SAMPLINGS[0], len(large.tokens)), "all that there was room for"
    assert small.tokens == plain(model, [4, 5], SAMPLINGS[0], 4)
