"""The acceptance figures are those of real rounds, played one by one."""

import pytest
import torch

from models.acceptance import CHAIN, Text, acceptance, draft_matches, play_rounds
from models.generate import continue_prompts, noisy
from models.network import Network
from tests.models.tiny_family import lively_network

END_ID = 2


def drafter_near(target: Network, distance: float) -> Network:
    """The target with some noise on its weights: a drafter that is often right."""
    drafter = lively_network(3)
    drafter.load_state_dict(target.state_dict())
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in drafter.parameters():
            parameter.add_(distance * parameter.std() * torch.randn(parameter.shape, generator=generator))
    return drafter


def texts_of(target: Network, temperature: float) -> list[Text]:
    prompts = [list(range(7 + number, 20 + 2 * number)) for number in range(6)]
    seeds = [50 + number for number in range(6)]
    answers = continue_prompts(target, prompts, max_new=40, end_id=END_ID, choose=noisy(temperature, seeds))
    return [Text(prompt=p, answer=a, seed=s) for p, a, s in zip(prompts, answers, seeds, strict=True)]


def play_for_real(drafter: Network, text: Text, temperature: float) -> tuple[int, int]:
    """Rounds as a fleet plays them: draft a chain, keep what equals the target's tokens, add the target's next one."""
    committed, num_rounds = 0, 0
    while committed < len(text.answer):
        start = [*text.prompt, *text.answer[:committed]]
        chain = continue_prompts(
            drafter, [start], max_new=CHAIN, end_id=END_ID, choose=noisy(temperature, [text.seed])
        )[0]
        wanted = text.answer[committed:]
        num_accepted = next(
            (i for i, (a, b) in enumerate(zip(chain, wanted, strict=False)) if a != b), min(len(chain), len(wanted))
        )
        committed += num_accepted + 1
        num_rounds += 1
    return len(text.answer), num_rounds


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_one_pass_gives_what_real_rounds_give(temperature: float) -> None:
    target = lively_network(3)
    drafter = drafter_near(target, 0.15)
    texts = texts_of(target, temperature)
    played = [play_for_real(drafter, text, temperature) for text in texts]
    found = acceptance(drafter, texts, temperature=temperature)
    assert (found.num_committed, found.num_rounds) == (sum(c for c, _ in played), sum(r for _, r in played))
    assert 1.05 < found.per_round < CHAIN, (
        "the drafter must be sometimes right and sometimes wrong for this to say anything"
    )


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_target_agrees_with_itself(temperature: float) -> None:
    target = lively_network(3)
    texts = texts_of(target, temperature)
    found = draft_matches(target, texts, temperature=temperature)
    assert found == [[True] * len(text.answer) for text in texts]
    assert all(found)


def test_other_noise_agrees_less() -> None:
    target = lively_network(3)
    texts = texts_of(target, 0.8)
    strangers = [Text(prompt=text.prompt, answer=text.answer, seed=text.seed + 1) for text in texts]
    shared, other = (acceptance(target, given, temperature=0.8).per_round for given in (texts, strangers))
    assert other < shared


@pytest.mark.parametrize(
    ("matches", "chain", "num_rounds"),
    [
        ([], 8, 0),
        ([False], 8, 1),
        ([True] * 9, 8, 1),
        ([True] * 10, 8, 2),
        ([True, False, True, False], 8, 2),
        ([False] * 5, 8, 5),
        ([True] * 4, 1, 2),
    ],
)
def test_rounds(matches: list[bool], chain: int, num_rounds: int) -> None:
    found = play_rounds(matches, chain)
    assert (found.num_committed, found.num_rounds) == (len(matches), num_rounds)
