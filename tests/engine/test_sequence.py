"""Sequences in the cache: exact books under any operations, prefixes shared and evicted, no leak on refusal."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import OutOfBlocks
from contracts.types import ROOT, SequenceId, TenantId
from engine.engine import Engine
from engine.sequence import Sequence
from engine.work import Draft, Verify, Work
from kernels.paged import BLOCK_TOKENS
from tests.engine.rig import GREEDY, Alone, Model, random_tokens, random_tree, same_bits, step_with_logits, verify_of

A, B, C = SequenceId("a"), SequenceId("b"), SequenceId("c")


def snapshot(engine: Engine) -> object:
    """All of an engine's books, to see that a refusal changed nothing."""
    sequences = {
        name: (
            list(found.tokens),
            found.num_computed,
            list(found.table),
            [(node.token, node.parent, node.slot, node.tail) for node in found.nodes],
            sorted(found.spare_blocks),
            found.tip,
        )
        for name, found in engine._sequences.items()
    }
    return sequences, engine.num_free_blocks, list(engine._copies)


def recount(engine: Engine) -> None:
    """Blocks by what sequences hold: every slot that is needed is there, and not one block more."""
    engine.pool.check()
    owners: Counter[int] = Counter()
    for found in engine._sequences.values():
        owners.update(found.blocks)
        check_sequence(found)
    assert [engine.pool.num_owners(block) for block in range(engine.pool.num_blocks)] == [
        owners[block] for block in range(engine.pool.num_blocks)
    ]
    assert engine.num_free_blocks == engine.pool.num_blocks - len(owners)


def check_sequence(found: Sequence) -> None:
    ends = [found.num_computed, *(node.position + 1 for node in found.nodes)]
    assert len(found.table) == -(-max(ends) // BLOCK_TOKENS)
    assert 0 <= found.num_computed <= len(found.tokens)
    in_table = [block * BLOCK_TOKENS + lane for block in found.table for lane in range(BLOCK_TOKENS)]
    spare = {node.slot for node in found.nodes if node.tail}
    spare_blocks = {slot // BLOCK_TOKENS for slot in spare}
    assert spare_blocks == set(found.spare_blocks)
    every_spare_slot = {block * BLOCK_TOKENS + lane for block in found.spare_blocks for lane in range(BLOCK_TOKENS)}
    assert set(found.free_spare_slots) == every_spare_slot - spare
    assert len({node.slot for node in found.nodes}) == len(found.nodes)
    for node in found.nodes:
        above = None if node.parent == ROOT else found.nodes[node.parent]
        assert node.position == (len(found.tokens) if above is None else above.position + 1)
        assert node.num_in_table + len(node.tail) == node.position + 1
        path = in_table[: node.num_in_table] + list(node.tail)
        assert path[-1] == node.slot
        if above is not None:
            assert path[:-1] == in_table[: above.num_in_table] + list(above.tail)


class Books:
    """Random operations on an engine that is short of blocks."""

    def __init__(self, engine: Engine, rng: random.Random) -> None:
        self.engine, self.rng = engine, rng
        self.names: list[SequenceId] = []
        self.num_operations = self.num_refused = self._num_born = 0
        self._prompts = [random_tokens(rng, 50) for _ in range(2)]

    def operate(self) -> None:
        before = snapshot(self.engine)
        try:
            self.rng.choice([self._open, self._step, self._step, self._step, self._commit, self._fork, self._close])()
        except OutOfBlocks:
            self.num_refused += 1
            assert snapshot(self.engine) == before
            if self.rng.random() < 0.5:
                self._close()
        self.num_operations += 1
        recount(self.engine)

    def _born(self) -> SequenceId:
        self._num_born += 1
        return SequenceId(str(self._num_born))

    def _open(self) -> None:
        name, rng = self._born(), self.rng
        prompt = rng.choice(self._prompts)[: rng.randrange(1, 50)]
        tenant = TenantId(rng.choice("xy"))
        num_cached = self.engine.open(name, prompt, GREEDY, tenant=tenant)
        assert num_cached < len(prompt)
        assert num_cached % BLOCK_TOKENS == 0
        self.names.append(name)

    def _step(self) -> None:
        chosen = self.rng.sample(self.names, min(len(self.names), self.rng.randrange(1, 4)))
        if chosen:
            self.engine.step([self._work(name) for name in chosen])

    def _work(self, name: SequenceId) -> Work:
        rng, found = self.rng, self.engine._sequences[name]
        if found.nodes or found.num_pending == 0 or rng.random() < 0.4:
            first = len(found.nodes)
            least = 1 if found.num_pending == 0 else 0
            nodes = [(rng.randrange(5, 320), rng.randrange(-1, first + i)) for i in range(rng.randrange(least, 20))]
            return Draft(sequence=name, nodes=tuple(nodes))
        if found.num_pending > 1 and rng.random() < 0.5:
            return Verify(sequence=name, num_pending=rng.randrange(1, found.num_pending))
        return verify_of(name, random_tree(rng, rng.randrange(20), []))

    def _commit(self) -> None:
        if self.names:
            name = self.rng.choice(self.names)
            found = self.engine._sequences[name]
            decided: list[int] = []
            at = self.rng.randrange(-1, len(found.nodes))
            while at != ROOT:
                decided.insert(0, found.nodes[at].token)
                at = found.nodes[at].parent
            self.engine.commit(name, decided or random_tokens(self.rng, self.rng.randrange(3)))

    def _fork(self) -> None:
        if self.names and len(self.names) < 8:
            name = self._born()
            self.engine.fork(self.rng.choice(self.names), name, GREEDY)
            self.names.append(name)

    def _close(self) -> None:
        if self.names:
            self.engine.close(self.names.pop(self.rng.randrange(len(self.names))))


def test_books_are_exact_after_thousands_of_operations(model: Model) -> None:
    totals: Counter[str] = Counter()

    @settings(max_examples=20)
    @given(seed=st.integers(0, 2**32 - 1), num_blocks=st.integers(6, 40))
    def check(seed: int, num_blocks: int) -> None:
        books = Books(model.engine(num_blocks=num_blocks), random.Random(seed))
        for _ in range(120):
            books.operate()
        for name in books.names:
            books.engine.close(name)
        books.engine.pool.check()
        assert books.engine.num_free_blocks == num_blocks
        totals.update(operations=books.num_operations, refused=books.num_refused)

    check()
    assert totals["operations"] >= 2000
    assert totals["refused"] >= 50  # else the pressure that this is about was not there


def test_a_refused_step_leaves_all_as_it_was_and_later_work_is_right(model: Model) -> None:
    engine, alone = model.engine(num_blocks=5), Alone(model, is_compiled=True)
    prompt = random_tokens(random.Random(1), 40)
    engine.open(A, prompt, GREEDY)
    engine.step([Verify(sequence=A)])
    engine.open(B, prompt[::-1], GREEDY)
    before = snapshot(engine)
    with pytest.raises(OutOfBlocks) as refused:
        engine.step([Verify(sequence=A), Verify(sequence=B)])
    assert (refused.value.num_needed, refused.value.num_free) == (3, 2)
    assert snapshot(engine) == before
    _, (logits,) = step_with_logits(engine, [Verify(sequence=A)])
    assert same_bits(logits[0], alone.logits_after(engine.tokens_of(A)[:-1]))
    engine.close(A)
    _, (logits,) = step_with_logits(engine, [Verify(sequence=B)])
    assert same_bits(logits[0], alone.logits_after(prompt[::-1]))


def test_an_accepted_path_always_has_its_place(model: Model) -> None:
    """The last free blocks go to spare slots of wrong nodes; committing into the next block must work all the same."""
    engine = model.engine(num_blocks=3)
    engine.open(A, [9] * 15, GREEDY)
    chain = [(20, ROOT), (30, ROOT), (31, 1), (32, 2)]
    engine.step([Draft(sequence=A, nodes=tuple(chain))])
    engine.open(B, [6] * 3, GREEDY)
    with pytest.raises(OutOfBlocks):
        engine.step([Verify(sequence=B)])
    assert engine.commit(A, [30, 31]) == {3: 0}
    recount(engine)
    _, (logits,) = step_with_logits(engine, [Draft(sequence=A, nodes=((33, 0),))])
    assert same_bits(logits[0], Alone(model, is_compiled=True).logits_after([9] * 15 + [30, 31, 32, 33]))


@pytest.mark.parametrize(("num_tokens", "num_cached"), [(15, 0), (16, 0), (17, 16), (32, 16), (33, 32), (50, 48)])
def test_a_prefix_is_shared_in_whole_blocks_and_the_last_token_is_computed(
    model: Model, num_tokens: int, num_cached: int
) -> None:
    engine, alone = model.engine(), Alone(model, is_compiled=True)
    prompt = random_tokens(random.Random(2), 60)
    engine.open(A, prompt, GREEDY)
    engine.step([Verify(sequence=A)])
    free = engine.num_free_blocks
    assert engine.open(B, prompt[:num_tokens], GREEDY) == num_cached
    assert engine.num_free_blocks == free
    result, (logits,) = step_with_logits(engine, [Verify(sequence=B)])
    assert result.report.num_rows == num_tokens - num_cached
    assert same_bits(logits[0], alone.logits_after(prompt[:num_tokens]))
    recount(engine)


def test_tenants_share_nothing(model: Model) -> None:
    engine = model.engine()
    prompt = random_tokens(random.Random(3), 40)
    assert engine.open(A, prompt, GREEDY, tenant=TenantId("one")) == 0
    engine.step([Verify(sequence=A)])
    assert engine.open(B, prompt, GREEDY, tenant=TenantId("two")) == 0
    assert engine.open(C, prompt, GREEDY, tenant=TenantId("one")) == 32
    engine.step([Verify(sequence=B), Verify(sequence=C)])
    tables = {name: set(engine._sequences[name].table) for name in (A, B, C)}
    assert not tables[A] & tables[B]
    assert len(tables[A] & tables[C]) == 2


def test_without_a_prefix_cache_nothing_is_shared(model: Model) -> None:
    engine = model.engine(prefix_cache=False)
    prompt = random_tokens(random.Random(3), 40)
    for name in (A, B):
        assert engine.open(name, prompt, GREEDY) == 0
        assert engine.step([Verify(sequence=name)]).report.num_rows == 40


def test_evicted_prefixes_are_computed_again_and_right(model: Model) -> None:
    engine, alone, rng = model.engine(num_blocks=6), Alone(model, is_compiled=True), random.Random(4)
    prompts = [random_tokens(rng, 33) for _ in range(4)]
    found: list[int] = []
    for prompt in [*prompts, prompts[3], prompts[0]]:
        found.append(engine.open(A, prompt, GREEDY))
        _, (logits,) = step_with_logits(engine, [Verify(sequence=A)])
        assert same_bits(logits[0], alone.logits_after(prompt))
        engine.close(A)
    assert found == [0, 0, 0, 0, 32, 0]


def test_a_prefix_is_evicted_from_its_end(model: Model) -> None:
    engine, prompt = model.engine(num_blocks=7), random_tokens(random.Random(6), 97)
    engine.open(A, prompt, GREEDY)
    engine.step([Verify(sequence=A)])
    engine.close(A)
    engine.open(B, random_tokens(random.Random(7), 20), GREEDY)  # two blocks: the empty one, and one that was kept
    engine.step([Verify(sequence=B)])
    engine.close(B)
    assert engine.open(A, prompt, GREEDY) == 80


def test_a_fork_goes_its_own_way(model: Model) -> None:
    engine, alone = model.engine(), Alone(model, is_compiled=True)
    prompt = random_tokens(random.Random(5), 21)
    engine.open(A, prompt, GREEDY)
    engine.step([verify_of(A, [(7, ROOT), (8, ROOT), (9, 1)])])
    tokens = list(engine.tokens_of(A))
    engine.fork(A, B, GREEDY)
    engine.commit(A, [50])
    engine.commit(B, [60])
    _, (of_b, of_a) = step_with_logits(engine, [Verify(sequence=B), Verify(sequence=A)])
    assert same_bits(of_a[-1], alone.logits_after([*tokens, 50]))
    assert same_bits(of_b[-1], alone.logits_after([*tokens, 60]))
    assert len(set(engine._sequences[A].table) & set(engine._sequences[B].table)) == 1
    recount(engine)
