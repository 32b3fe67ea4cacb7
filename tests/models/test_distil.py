"""Distillation: the divergence is what its name says, and a drafter comes closer to its target."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from contracts.errors import CheckpointError, InvalidArgument
from models.acceptance import acceptance, answer_logits
from models.distil import Distillation, answer_places, coprime, divergence, packed_divergence
from models.network import Network, initialise
from models.packing import pack, pack_top, plan_rows
from models.teacher import (
    TeacherTexts,
    TopLogprobs,
    ask_teacher,
    load_teacher_texts,
    save_teacher_texts,
    top_logprobs,
)
from tests.models.tiny_family import TINY_PLAN, TINY_SHAPE, lively_network

PROMPTS = [list(range(7 + number, 20 + 2 * number)) for number in range(8)]


@pytest.fixture(scope="module")
def target() -> Network:
    return lively_network(3)


@pytest.fixture(scope="module")
def texts(target: Network) -> TeacherTexts:
    return ask_teacher(target, PROMPTS, max_new=24, temperature=0.8, seed=5)


def test_divergence_is_kl_plus_variation_where_everything_is_seen() -> None:
    generator = torch.Generator().manual_seed(0)
    teacher, student = torch.randn(2, 5, 12, generator=generator)
    expected_kl = torch.nn.functional.kl_div(
        student.log_softmax(-1), teacher.log_softmax(-1), reduction="none", log_target=True
    ).sum(-1)
    variation = 0.5 * (student.softmax(-1) - teacher.softmax(-1)).abs().sum(-1)
    found = divergence(student, top_logprobs(teacher), variation_weight=2.0)
    assert torch.allclose(found, expected_kl + 2 * variation, atol=1e-4)


def test_divergence_with_a_lump_is_a_lower_bound_and_zero_for_equals() -> None:
    generator = torch.Generator().manual_seed(0)
    teacher, student = torch.randn(2, 5, 300, generator=generator)
    seen = top_logprobs(teacher)
    assert seen.tokens.shape == (5, 32)
    exact = torch.nn.functional.kl_div(
        student.log_softmax(-1), teacher.log_softmax(-1), reduction="none", log_target=True
    ).sum(-1)
    found = divergence(student, seen, variation_weight=0.0)
    assert torch.all(found <= exact + 1e-5)
    assert torch.all(found > 0.05)
    assert torch.allclose(divergence(teacher, seen, variation_weight=1.0), torch.zeros(5), atol=1e-5)


def test_teacher_distributions_belong_to_its_tokens(target: Network, texts: TeacherTexts) -> None:
    """Greedy texts follow the likeliest token everywhere, sampled ones do not, and a fresh pass says the same."""
    for number, (text, top) in enumerate(zip(texts.texts, texts.top, strict=True)):
        assert len(top.tokens) == len(text.answer)
        likeliest = top.tokens[:, 0].tolist()
        assert (likeliest == list(text.answer)) == (number % 2 == 0)
        with torch.no_grad():
            logits = target.logits(torch.tensor([[*text.prompt, *text.answer]]))[0, len(text.prompt) - 1 : -1]
        assert torch.allclose(top_logprobs(logits).logprobs, top.logprobs, atol=1e-3)


def test_texts_survive_the_disk(texts: TeacherTexts, tmp_path: Path) -> None:
    path = tmp_path / "texts.safetensors"
    save_teacher_texts(path, texts)
    read = load_teacher_texts(path)
    assert [list(text.answer) for text in read.texts] == [list(text.answer) for text in texts.texts]
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(read.top, texts.top, strict=True))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="delete it to make them again"):
        load_teacher_texts(path)


def distillation(
    target: Network, texts: TeacherTexts, run: Path, *, num_steps: int, on_policy_every: int
) -> Distillation:
    drafter = Network(replace(TINY_SHAPE, num_layers=1))
    initialise(drafter, 4)
    settings = replace(
        TINY_PLAN.distil,
        lr=1e-2,
        num_steps=num_steps,
        rows=4,
        length=128,
        on_policy_every=on_policy_every,
        report_every=1000,
    )
    loop = Distillation(
        drafter,
        target,
        settings,
        {"sql": 1.0},
        train_texts={"sql": texts},
        valid_texts={"sql": texts},
        run=run,
        log=print,
        compiled=False,
    )
    loop.begin_decay(num_steps)
    return loop


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_only_answers_count(target: Network, share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 100, (2, 40), generator=generator)
    documents = torch.ones_like(tokens)
    answers = torch.rand(2, 40, generator=generator) < share
    drafter = lively_network(4)
    with torch.no_grad():
        top = top_logprobs(target.logits(tokens, documents).flatten(0, 1))
        expected = divergence(drafter.logits(tokens, documents).flatten(0, 1), top, 1.0)[answers.flatten()].mean()
        places = answer_places(answers)
        found = packed_divergence(
            drafter, tokens, documents, places, answers.sum(), top.tokens[places], top.logprobs[places], 1.0
        )
    assert len(places) == (40 if share < 0.5 else 80)
    assert found == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("on_policy_every", [0, 2])
def test_a_drafter_comes_closer(target: Network, texts: TeacherTexts, tmp_path: Path, on_policy_every: int) -> None:
    loop = distillation(target, texts, tmp_path, num_steps=60, on_policy_every=on_policy_every)
    before = acceptance(loop.network, texts.texts, temperature=0.8).per_round
    assert loop.train()
    assert acceptance(loop.network, texts.texts, temperature=0.8).per_round > before + 0.5


def test_proposals_are_the_drafters_own_and_judged_by_the_target(
    target: Network, texts: TeacherTexts, tmp_path: Path
) -> None:
    loop = distillation(target, texts, tmp_path, num_steps=4, on_policy_every=1)
    rows, top = loop.propose(texts.texts)
    originals = {tuple(text.prompt): [*text.prompt, *text.answer] for text in texts.texts}
    num_checked = num_departed = 0
    for row in range(len(rows)):
        for number in range(1, int(rows.documents[row].max()) + 1):
            inside = rows.documents[row] == number
            tokens, answers = rows.tokens[row, inside], rows.answers[row, inside]
            first = int(answers.nonzero()[0]) + 1
            original = next(
                whole for prompt, whole in originals.items() if tokens[: len(prompt)].tolist() == list(prompt)
            )
            whole = tokens.tolist()
            kept = next(n for n in range(len(whole), 0, -1) if whole[:n] == original[:n])
            assert kept >= first, "a proposal stands on the target's own text"
            assert len(tokens) - kept <= TINY_PLAN.distil.num_rollout
            assert answers.sum() == len(tokens) - first, "its own words are judged too"
            num_departed += tokens.tolist() != original[: len(tokens)]
            with torch.no_grad():
                alone = top_logprobs(target.logits(tokens[None])[0, first - 1 : -1])
            judged = top.logprobs[row, inside][first - 1 : -1].float()
            assert torch.allclose(judged, alone.logprobs, atol=0.1), "bfloat16 against float32"
            num_checked += 1
    assert num_checked >= 4
    assert num_departed >= num_checked // 2


def test_every_row_serves_once_before_any_twice(target: Network, texts: TeacherTexts, tmp_path: Path) -> None:
    loop = distillation(target, texts, tmp_path, num_steps=4, on_policy_every=0)
    num_rows = len(loop.packed["sql"].rows)
    assert num_rows > 2
    for _ in range(3):
        assert {loop.next_row()[1] for _ in range(num_rows)} == set(range(num_rows))


def test_packed_texts_are_computed_as_if_alone(target: Network, texts: TeacherTexts) -> None:
    length = 128
    plan = plan_rows(texts.texts, length)
    assert sorted(index for row in plan for index in row) == list(range(len(texts)))
    assert any(len(row) > 1 for row in plan)
    rows, top = pack(texts.texts, plan, length), pack_top(texts.texts, texts.top, plan, length)
    with torch.no_grad():
        logits = target.logits(rows.tokens, rows.documents)
    alone = torch.cat(answer_logits(target, [texts.texts[index] for row in plan for index in row]))
    assert torch.allclose(logits[rows.answers], alone, atol=1e-3)
    assert torch.equal(
        top.tokens[rows.answers].long(), torch.cat([texts.top[index].tokens for row in plan for index in row])
    )


def test_a_text_longer_than_a_row_is_refused(texts: TeacherTexts) -> None:
    with pytest.raises(InvalidArgument, match=r"a text of \d+ tokens does not fit into rows of 20"):
        plan_rows(texts.texts, 20)


def test_strides_are_coprime() -> None:
    for count in range(1, 60):
        for salt in range(5):
            assert len({place * coprime(count, salt) % count for place in range(count)}) == count


def test_domains_without_texts_are_named(target: Network, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="sql"):
        distillation(target, TeacherTexts(texts=[], top=[]), tmp_path, num_steps=4, on_policy_every=0)


def test_top_is_sorted_best_first() -> None:
    top = top_logprobs(torch.randn(3, 50, generator=torch.Generator().manual_seed(1)))
    assert isinstance(top, TopLogprobs)
    assert torch.all(top.logprobs[:, :-1] >= top.logprobs[:, 1:])
